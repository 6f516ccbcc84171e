"""The key of a server: it goes into requests and nowhere else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from tokenwatt.engines.openai_endpoint.address import WITH_USER, why_unfit
from tokenwatt.errors import UserError

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
HIDDEN = "<key>"
SHORTEST = 8
"""Characters of what is hidden of headers, and of a key that was cut: fewer tell nothing, and stand in any text."""
LONGEST_TOLD = 300
"""Characters of a server's words."""
_SCHEME = re.compile(r"(?:bearer|basic|token)\s+", re.IGNORECASE)
"""What stands ahead of a key in a header."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key, or none, and the headers that may hold others; its repr does not show them."""

    _value: str = field(default="", repr=False)
    _secrets: tuple[str, ...] = field(default=(), repr=False)
    """All that is hidden, each before what it contains."""

    @classmethod
    def of(cls, variable: str | None, headers: Mapping[str, str]) -> Self:
        """The value of an environment variable, and further headers of each request.

        Raises:
            UserError: there is none, or it is no key.
        """
        own = _from_environment(variable) if variable is not None else ""
        values = {own} | {
            part
            for value in headers.values()
            for part in (value, _SCHEME.sub("", value, count=1))
            if len(part) >= SHORTEST
        }
        forms = {form for value in values - {""} for form in _forms(value)}
        return cls(own, tuple(sorted(forms, key=len, reverse=True)))

    @property
    def headers(self) -> dict[str, str]:
        """The header that carries it."""
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def hide(self, text: str) -> str:
        """`text` without the key, which servers like to repeat; nor its beginning, where the text ends within it."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        ending = text.rstrip("'\"")  # what came is quoted
        for secret in self._secrets:
            for length in range(len(secret) - 1, SHORTEST - 1, -1):
                if ending.endswith(secret[:length]):
                    return ending[:-length] + HIDDEN + text[len(ending) :]
        return text

    def tell(self, words: str) -> str:
        """Words without the key, in one line, and not too long: in this order, or the beginning of a key is left."""
        line = " ".join(self.hide(words).split())
        return line if len(line) <= LONGEST_TOLD else line[: LONGEST_TOLD - 3] + "..."


def _from_environment(variable: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not value:
        raise UserError(f"api_key_env names {variable}, which is not set; export it, or leave api_key_env out")
    if not value.isascii() or not value.isprintable():
        raise UserError(f"{variable} does not hold a key: it has characters that no HTTP header can carry")
    return value


def _forms(value: str) -> set[str]:
    """How a value stands in text: as it is, in JSON, and in Python's quotes."""
    escaped = value.replace("\\", "\\\\")
    return {value, json.dumps(value)[1:-1], escaped, escaped.replace("'", "\\'")}


def refuse_keys_in_the_open(options: dict[str, Any]) -> None:
    """Refuse an address with a password in it, a key where its variable's name belongs, and headers that are none.

    Whoever validates options repeats what was wrong; none of these must be.

    Raises:
        UserError: there is one.
    """
    variable, headers = options.get("api_key_env"), options.get("headers")
    if variable is not None and not (isinstance(variable, str) and _VARIABLE.fullmatch(variable)):
        raise UserError("api_key_env must name an environment variable, in capitals; what stands there is no such name")
    for name in ("base_url", "metrics_url"):
        address = options.get(name)
        if isinstance(address, str) and why_unfit(address) == WITH_USER:
            raise UserError(f"{name} holds a user or a password; name the key by api_key_env, or put it into headers")
    if headers is not None and not (isinstance(headers, dict) and all(map(_is_header, headers.items()))):
        raise UserError('headers must be names with values in one line of ASCII, such as { X-Team = "blue" }')


def _is_header(header: tuple[object, object]) -> bool:
    name, value = header
    if not isinstance(name, str) or not isinstance(value, str):
        return False
    return _HEADER.fullmatch(name) is not None and value.isascii() and value.isprintable()
