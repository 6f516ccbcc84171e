"""Single questions to the server, outside of any measurement: which model, which fields, which metrics."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass

from tokenwatt.engines.openai_endpoint.address import Address
from tokenwatt.engines.openai_endpoint.answers import MalformedError

MOST_BYTES = 2**26


@dataclass(frozen=True, slots=True)
class Page:
    """What came back."""

    status: int
    body: bytes


def ask(address: Address, path: str, headers: Mapping[str, str], timeout_s: float, body: bytes | None = None) -> Page:
    """GET a page, or POST `body`, which is JSON; redirections are not followed.

    Raises:
        OSError: no server, or no answer in time.
        MalformedError: the answer is no HTTP.
    """
    tls = address.tls()
    if tls is None:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    else:
        connection = http.client.HTTPSConnection(address.host, address.port, timeout=timeout_s, context=tls)
    try:
        kind = {} if body is None else {"Content-Type": "application/json"}
        connection.request("GET" if body is None else "POST", path, body, {**kind, **headers})
        response = connection.getresponse()
        return Page(response.status, response.read(MOST_BYTES))
    except http.client.HTTPException as error:
        raise MalformedError(f"{type(error).__name__}: {error}") from None
    finally:
        connection.close()
