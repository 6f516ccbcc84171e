"""One GET over http or https with a timeout: no proxy from the environment, no password on the command line."""

from __future__ import annotations

import base64
import http.client
import netrc
import ssl
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from tokenwatt.errors import UserError
from tokenwatt.power.meter import MeterError

TIMEOUT_S = 10.0
"""A BMC under load takes seconds; one that takes longer gives no reading."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class HttpError(MeterError):
    """No answer, or one that is not 200."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """The answer's HTTP status; None without an answer."""


def is_address(text: str) -> bool:
    """Whether `text` is an http or https address.

    >>> is_address("http://localhost:8000/metrics"), is_address("localhost:8000"), is_address("http://host:port")
    (True, False, False)
    """
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def get(url: str, authorization: str | None = None, is_insecure: bool = False) -> bytes:
    """Body of the answer.

    authorization: header of that name; not sent on to where a redirection leads.
    is_insecure: take any TLS certificate.

    Raises:
        HttpError: no answer within `TIMEOUT_S`, or another status.
    """
    context = ssl._create_unverified_context() if is_insecure else ssl.create_default_context()  # noqa: S323
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    request = urllib.request.Request(url, headers={"Accept": "*/*"})  # noqa: S310 (callers allow http and https only)
    if authorization is not None:
        request.add_unredirected_header("Authorization", authorization)
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        with error:
            raise HttpError(f"{url} answers {error.code} {error.reason}", error.code) from None
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise HttpError(f"{url} does not answer ({reason})") from None


def basic_authorization(url: str) -> str | None:
    """Authorization header for the host of `url` from ~/.netrc; None where it has no entry.

    Raises:
        UserError: ~/.netrc is damaged or open to others, or would travel in the clear.
    """
    scheme, host = urlsplit(url).scheme, urlsplit(url).hostname or ""
    try:
        entry = netrc.netrc().authenticators(host)
    except FileNotFoundError:
        return None
    except (OSError, netrc.NetrcParseError) as error:
        raise UserError(f"~/.netrc cannot be used: {error}") from None
    if entry is None:
        return None
    if scheme != "https" and host not in _LOOPBACK:
        raise UserError(f"{url}: a password from ~/.netrc goes over https only; write https://")
    login, _, password = entry
    return "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode()
