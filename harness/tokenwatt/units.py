"""Units: the names that columns carry, and the few conversions done at the edges. SI inside."""

from __future__ import annotations

from dataclasses import dataclass

SECONDS_PER_HOUR = 3600.0
WATTS_PER_MW = 1e6
TOKENS_PER_MTOK = 1e6


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit of a numeric column, attached to a record field as `Annotated[float, Unit("J")]`.

    `symbol` is a UCUM-like name: `s`, `J`, `W`, `Hz`, `byte`, `token/s`; `1` for a pure number.
    """

    symbol: str


_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def format_si(value: float | None, unit: str, digits: int = 3) -> str:
    """Write a value with an SI prefix: three significant digits, an en dash for an unknown value.

    >>> format_si(0.01234, "s")
    '12.3 ms'
    >>> format_si(1250, "token/s")
    '1.25 ktoken/s'
    >>> format_si(None, "J")
    '–'
    """
    if value is None or value != value:
        return "–"
    if value == 0:
        return f"0 {unit}"
    for scale, prefix in _PREFIXES:
        # 0.9995 guards against 999.96 becoming '1e+03'.
        if abs(value) >= scale * (1 - 0.5 * 10.0**-digits):
            return f"{_significant(value / scale, digits)} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}"


def _significant(value: float, digits: int) -> str:
    """Fixed-point text with `digits` significant digits for 1 <= |value| < 1000 (more left of the point if larger)."""
    value = float(f"{value:.{digits - 1}e}")  # 9.996 is 10.0, not 10.00
    whole = len(str(int(abs(value))))
    return f"{value:.{max(digits - whole, 0)}f}"
