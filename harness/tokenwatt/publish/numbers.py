"""Numbers of the page: means of ratios, and the words that a cell has for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tokenwatt.report.tables import NOTHING
from tokenwatt.units import format_si

US_PER_S = 1e6


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive values, at least one.

    >>> round(geometric_mean([0.5, 8.0]), 9)
    2.0
    """
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def ratio(value: float | None) -> str:
    """A ratio with three digits.

    >>> ratio(1.2345), ratio(None)
    ('1.23', '–')
    """
    return NOTHING if value is None else f"{value:.3g}"


def microseconds(value_s: float | None) -> str:
    """A kernel's time in µs, four digits.

    >>> microseconds(0.0123456), microseconds(4.2e-6), microseconds(None)
    ('12,346', '4.2', '–')
    """
    if value_s is None:
        return NOTHING
    value = float(f"{value_s * US_PER_S:.4g}") if value_s * US_PER_S < 1e4 else value_s * US_PER_S
    return f"{value:,.0f}" if value >= 1e3 else f"{value:g}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent.

    >>> percent(0.0612), percent(None)
    ('6.1 %', '–')
    """
    return NOTHING if share is None else f"{share * 100:.{digits}f} %"


def mean_and_range(values: Sequence[float]) -> str:
    """Geometric mean with the ends.

    >>> mean_and_range([0.5, 8.0]), mean_and_range([])
    ('2 (0.5 to 8)', '–')
    """
    if not values:
        return NOTHING
    return f"{ratio(geometric_mean(values))} ({ratio(min(values))} to {ratio(max(values))})"


def mean_and_range_percent(shares: Sequence[float]) -> str:
    """The same for shares.

    >>> mean_and_range_percent([0.4, 0.9]), mean_and_range_percent([])
    ('60 % (40 % to 90 %)', '–')
    """
    if not shares:
        return NOTHING
    return f"{percent(geometric_mean(shares), 0)} ({percent(min(shares), 0)} to {percent(max(shares), 0)})"


def from_to(low: float | None, high: float | None, unit: str) -> str:
    """Two ends with their unit, once where they are the same.

    >>> from_to(700.0, 700.0, "W"), from_to(1.2e9, 1.98e9, "Hz"), from_to(None, None, "W")
    ('700 W', '1.20 GHz to 1.98 GHz', '–')
    """
    ends = dict.fromkeys((format_si(low, unit), format_si(high, unit)))
    return " to ".join(ends)
