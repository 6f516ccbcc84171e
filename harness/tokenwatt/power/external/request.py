"""How a meter is asked for: `name:place?option=value&option=value`, one text that fits a flag and a suite file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from tokenwatt.errors import UserError, unknown_name
from tokenwatt.power.external.http import is_address


@dataclass(frozen=True, slots=True)
class MeterRequest:
    """A meter that somebody asks for."""

    text: str
    """As it was written; goes into the row."""
    name: str
    """Kind of meter."""
    place: str
    """File or address; empty for a meter without one."""
    options: Mapping[str, str]
    """Settings of that kind of meter."""

    def only(self, allowed: Iterable[str]) -> None:
        """Refuse options outside `allowed`.

        Raises:
            UserError: names the first one, and the ones that exist.
        """
        for option in self.options:
            if option not in allowed:
                raise unknown_name(f"option of meter {self.name}", option, allowed)

    def flag(self, option: str) -> bool:
        """An option that is `1` or `0`, by default `0`.

        Raises:
            UserError: another value.
        """
        value = self.options.get(option, "0")
        if value not in ("0", "1"):
            raise UserError(f"meter {self.text!r}: {option} must be 0 or 1, got {value!r}")
        return value == "1"

    def number(self, option: str) -> float | None:
        """An option that is a finite number; None where it is not given.

        Raises:
            UserError: anything else.
        """
        value = self.options.get(option)
        if value is None:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"meter {self.text!r}: {option} must be a number, got {value!r}")
        return number

    def address(self) -> str:
        """The place as an http or https address without user and password.

        Raises:
            UserError: it is none.
        """
        if not is_address(self.place):
            raise UserError(f"meter {self.name!r} needs an http or https address, got {self.place!r}")
        if "@" in urlsplit(self.place).netloc:
            raise UserError(f"meter {self.name!r}: name and password belong into ~/.netrc, not into the address")
        return self.place.rstrip("/")


def parse(text: str) -> MeterRequest:
    """Take a request apart; whether its meter exists is for others to say.

    Raises:
        UserError: an option without a value, or given twice.

    >>> parse("csv:rack.csv?offset_s=-3600").options
    {'offset_s': '-3600'}
    >>> parse("ipmi").place
    ''
    """
    name, _, rest = text.partition(":")
    place, _, query = rest.partition("?")
    try:
        pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise UserError(f"meter {text!r}: options are written ?name=value&name=value, got {query!r}") from None
    options = dict(pairs)
    if len(options) != len(pairs):
        raise UserError(f"meter {text!r}: an option is given twice")
    return MeterRequest(text, name, place, options)
