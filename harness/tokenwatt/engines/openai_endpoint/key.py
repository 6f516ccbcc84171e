"""The key of a server: it goes into requests and nowhere else."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from tokenwatt.errors import UserError

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
HIDDEN = "<key>"


@dataclass(frozen=True, slots=True)
class Key:
    """A key, or none; its repr does not show it."""

    _value: str = field(default="", repr=False)

    @classmethod
    def from_environment(cls, variable: str | None) -> Self:
        """The value of an environment variable.

        Raises:
            UserError: there is none, or it is no key.
        """
        if variable is None:
            return cls()
        value = os.environ.get(variable, "").strip()
        if not value:
            raise UserError(f"api_key_env names {variable}, which is not set; export it, or leave api_key_env out")
        if not value.isascii() or not value.isprintable():
            raise UserError(f"{variable} does not hold a key: it has characters that no HTTP header can carry")
        return cls(value)

    @property
    def headers(self) -> dict[str, str]:
        """The header that carries it."""
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def hide(self, text: str) -> str:
        """`text` without the key, which servers like to repeat."""
        return text.replace(self._value, HIDDEN) if self._value else text


def refuse_keys_in_the_open(options: dict[str, Any]) -> None:
    """Refuse an address with a password in it, a key where its variable's name belongs, and headers that are none.

    Whoever validates options repeats what was wrong; none of these must be.

    Raises:
        UserError: there is one.
    """
    variable, address, headers = (options.get(name) for name in ("api_key_env", "base_url", "headers"))
    if variable is not None and not (isinstance(variable, str) and _VARIABLE.fullmatch(variable)):
        raise UserError("api_key_env must name an environment variable, in capitals; what stands there is no such name")
    if isinstance(address, str) and "@" in urlsplit(address).netloc:
        raise UserError("base_url holds a user or a password; name the key by api_key_env, or put it into headers")
    if headers is not None and not (isinstance(headers, dict) and all(map(_is_header, headers.items()))):
        raise UserError('headers must be names with values in one line of ASCII, such as { X-Team = "blue" }')


def _is_header(header: tuple[object, object]) -> bool:
    name, value = header
    if not isinstance(name, str) or not isinstance(value, str):
        return False
    return _HEADER.fullmatch(name) is not None and value.isascii() and value.isprintable()
