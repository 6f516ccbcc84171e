"""A `config.json` as an object that checks what is read from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenwatt.errors import UserError


@dataclass(frozen=True, slots=True)
class Config:
    """The object in a `config.json`, or one inside it; what is read from it is checked.

    Every method raises a UserError that names the file, the key, what was found and what is allowed.
    """

    name: str
    path: Path
    values: dict[str, Any]

    def refusal(self, key: str, found: object, allowed: str) -> UserError:
        """The error of a value that tokenwatt does not run."""
        shown = str(found).lower() if isinstance(found, bool) else repr(found)
        return UserError(f"{self.path}: {key} {shown} is not supported; allowed: {allowed}")

    def only(self, key: str, allowed: str | float) -> None:
        """Refuse any other value of a key; a missing key has the allowed one."""
        found = self.values.get(key)
        if found is not None and found != allowed:
            raise self.refusal(key, found, str(allowed).lower() if isinstance(allowed, bool) else str(allowed))

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        """An integer from `least` on; without a default it must be there."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            kind = "a positive integer" if least == 1 else f"an integer >= {least}"
            raise UserError(f"{self.path}: {key} must be {kind}, got {value!r}")
        return value

    def whole_or(self, key: str, derived: int) -> int:
        """A positive integer; where it is missing or null, what it is derived to be."""
        return derived if self.values.get(key) is None else self.whole(key)

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number; where it is missing or null, the default, if there is one."""
        found = self.values.get(key)
        value = default if found is None else found
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise UserError(f"{self.path}: {key} must be a positive number, got {value!r}")
        return float(value)

    def number_or_none(self, key: str) -> float | None:
        """A positive number; None where it is missing or null."""
        return None if self.values.get(key) is None else self.number(key)

    def flag(self, key: str, default: bool) -> bool:
        """A switch; null is off, as in Python."""
        value = self.values.get(key, default)
        if value is not None and not isinstance(value, bool):
            raise UserError(f"{self.path}: {key} must be true or false, got {value!r}")
        return bool(value)

    def inside(self, values: object, what: str) -> Config:
        """An object inside this one; null is an empty one."""
        if values is not None and not isinstance(values, dict):
            raise UserError(f"{self.path}: {what} must be a JSON object, got {values!r}")
        return replace(self, values=values or {})
