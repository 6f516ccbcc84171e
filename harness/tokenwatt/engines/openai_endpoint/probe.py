"""What the server is asked before anything is measured: its model's name, and which fields it takes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tokenwatt.engines.openai_endpoint.address import Address
from tokenwatt.engines.openai_endpoint.answers import MalformedError
from tokenwatt.engines.openai_endpoint.options import EndpointOptions
from tokenwatt.engines.openai_endpoint.outcome import of_http
from tokenwatt.engines.openai_endpoint.render import Extra, Renderer
from tokenwatt.engines.openai_endpoint.tokens import OK
from tokenwatt.engines.openai_endpoint.web import Page, ask
from tokenwatt.errors import EngineError, unknown_name
from tokenwatt.workloads import Request

MODELS = "/v1/models"
SHORT_TIMEOUT_S = 30.0
"""For a list of models."""
_UNKNOWN_FIELD = (400, 422)
_TOKEN_IDS = re.compile(rb'"token_ids": ?\[')
"""In the answer of a server that sends them; null stands there, or nothing, if it does not."""
_NEEDED: dict[str, tuple[Extra, ...]] = {"token_ids": (Extra.TOKEN_IDS, Extra.USAGE), "usage": (Extra.USAGE,)}
"""By the way of counting, what the server must not refuse."""
_NO_SUCH_PAGE = (404, 405, 501)
PROMPT = np.ones(8, dtype=np.int32)
"""Of the requests that find out what the server takes: a model has at least two tokens."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server to ask, and the headers that it asks for."""

    address: Address
    headers: Mapping[str, str] = field(repr=False)
    tell: Callable[[str], str]
    """Makes its words fit to be shown."""

    def ask(self, path: str, timeout_s: float, body: bytes | None = None) -> Page:
        """One question.

        Raises:
            EngineError: no answer, or none that is HTTP.
        """
        try:
            return ask(self.address, path, self.headers, timeout_s, body)
        except (OSError, MalformedError) as error:
            raise EngineError(f"no answer from {self.address.host_header}{path}: {self.tell(str(error))}") from None

    def why(self, page: Page) -> str:
        """What an answer says that is none."""
        return self.tell(of_http(page.status, page.body).detail)


def find_model(server: Server, wanted: str | None) -> str:
    """The name under which the server has the model.

    Raises:
        EngineError: it has another one, or several, or does not say; it does not know the key; or no answer.
    """
    page = server.ask(server.address.prefix + MODELS, SHORT_TIMEOUT_S)
    names = _names(page) if page.status == OK else None
    if names is None:
        if page.status not in (OK, *_NO_SUCH_PAGE):
            raise EngineError(f"{server.address.host_header} refuses: {server.why(page)}")
        if wanted is None:
            raise EngineError(f"{server.address.host_header} does not list its models; name one by served_model")
        return wanted
    if wanted is None and len(names) != 1:
        raise EngineError(f"served_model must name one of the server's models: {', '.join(names) or 'it has none'}")
    if wanted is not None and wanted not in names:
        raise EngineError(str(unknown_name("served_model", wanted, names)))
    return wanted or names[0]


def _names(page: Page) -> list[str] | None:
    """Models that a page lists; None if it is no list of models."""
    try:
        return [str(model["id"]) for model in json.loads(page.body)["data"]]
    except (ValueError, KeyError, TypeError):
        return None


def find_extras(server: Server, renderer: Renderer, options: EndpointOptions) -> frozenset[Extra]:
    """The fields that this server takes, of those that would be sent: asked together, then one by one.

    Raises:
        EngineError: it takes no request at all, or not what the options insist on; or no answer.
    """
    wanted = wanted_extras(options)
    together = _try(server, replace(renderer, extras=wanted), options)
    if together.refusal is None:
        return wanted if together.has_ids else _without_ids(wanted, options)
    bare = _try(server, replace(renderer, extras=frozenset()), options).refusal
    if bare is not None:
        raise EngineError(f"{server.address.host_header} refuses the plainest request: {bare}")
    accepted: frozenset[Extra] = frozenset()
    for extra in sorted(wanted):
        tried = _try(server, replace(renderer, extras=accepted | {extra}), options)
        if tried.refusal is None:
            is_ignored = extra is Extra.TOKEN_IDS and not tried.has_ids
            accepted = _without_ids(accepted, options) if is_ignored else accepted | {extra}
        elif extra in _NEEDED.get(options.counting, ()):
            raise EngineError(f"counting = {options.counting!r} needs {extra}, and the server refuses: {tried.refusal}")
    return accepted


def _without_ids(extras: frozenset[Extra], options: EndpointOptions) -> frozenset[Extra]:
    """Of a server that takes the wish for token ids and does not fulfil it: many ignore what they do not know.

    Raises:
        EngineError: tokens are to be counted by them.
    """
    if options.counting == "token_ids":
        raise EngineError(f"counting = 'token_ids' needs {Extra.TOKEN_IDS}, and the server ignores it")
    return extras - {Extra.TOKEN_IDS}


def wanted_extras(options: EndpointOptions) -> frozenset[Extra]:
    """What would be sent to a server that takes everything."""
    extras = {Extra.FULL_SAMPLING, Extra.TOKEN_IDS}
    if options.ignore_eos:
        extras.add(Extra.IGNORE_EOS)
    if options.counting != "chunks":
        extras |= {Extra.USAGE, Extra.CONTINUOUS_USAGE}
    return frozenset(extras)


@dataclass(frozen=True, slots=True)
class _Tried:
    """What became of a request."""

    refusal: str | None
    """Why the server does not take its form; None if it does."""
    has_ids: bool = False
    """Whether the answer says its token ids."""


def _try(server: Server, renderer: Renderer, options: EndpointOptions) -> _Tried:
    """Send a request of this form.

    Raises:
        EngineError: the server refuses for another reason than its form, or has failed; or no answer.
    """
    request = Request(0, PROMPT, max_tokens=2)
    page = server.ask(renderer.path, options.first_byte_s, renderer.body(request))
    if page.status == OK:
        return _Tried(None, _TOKEN_IDS.search(page.body) is not None)
    why = server.why(page)
    if page.status not in _UNKNOWN_FIELD:
        raise EngineError(f"{server.address.host_header}{renderer.path} refuses: {why}")
    return _Tried(why)


def describe(server: Server) -> str:
    """Name and version of the server, in its own words, as far as it has any."""
    models, version = (server.ask(path, SHORT_TIMEOUT_S) for path in (server.address.prefix + MODELS, "/version"))
    words = [_field(models, "data", 0, "owned_by"), _field(version, "version")]
    return " ".join(word for word in words if word)


def longest_context(server: Server, model: str) -> int | None:
    """Tokens of a sequence that the server allows; None where it does not say."""
    page = server.ask(server.address.prefix + MODELS, SHORT_TIMEOUT_S)
    names = _names(page) or []
    length = _field(page, "data", names.index(model), "max_model_len") if model in names else None
    return int(length) if length and length.isdigit() else None


def _field(page: Page, *path: str | int) -> str | None:
    """A value of a page of JSON, as text; None if it is not there."""
    try:
        value: Any = json.loads(page.body) if page.status == OK else None
        for key in path:
            value = value[key]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return None if value is None else str(value)
