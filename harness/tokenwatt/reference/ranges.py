"""A number that is known only within a range, and how ranges combine: worst end with worst end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Case = Literal["low", "central", "high"]
CASES: tuple[Case, ...] = ("low", "central", "high")


@dataclass(frozen=True, slots=True)
class Range:
    """A positive quantity with `low <= central <= high`.

    Products and quotients pair the ends that lie furthest apart, as if every error struck at once. Errors that would
    cancel are therefore counted twice: a range is never too narrow for its inputs, and often too wide.

    >>> Range(1.0, 2.0, 4.0) / Range(1.0, 2.0, 2.0)
    Range(low=0.5, central=1.0, high=4.0)
    """

    low: float
    central: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.central <= self.high:
            raise ValueError(f"a range needs 0 < low <= central <= high, got {self.low}, {self.central}, {self.high}")

    @classmethod
    def exact(cls, value: float) -> Range:
        """A number without a range of its own."""
        return cls(value, value, value)

    def __mul__(self, other: Range) -> Range:
        return Range(self.low * other.low, self.central * other.central, self.high * other.high)

    def __truediv__(self, other: Range) -> Range:
        return Range(self.low / other.high, self.central / other.central, self.high / other.low)

    def widened(self, others: Iterable[Range]) -> Range:
        """Same central value; the ends reach as far as those of any of `others`.

        >>> Range(2.0, 3.0, 4.0).widened([Range.exact(1.0), Range.exact(3.5)])
        Range(low=1.0, central=3.0, high=4.0)
        """
        spread = (self, *others)
        return Range(min(each.low for each in spread), self.central, max(each.high for each in spread))

    def at_most(self, ceiling: float) -> Range:
        """Every end cut off at `ceiling`."""
        return Range(min(self.low, ceiling), min(self.central, ceiling), min(self.high, ceiling))

    def at(self, case: Case) -> float:
        """The named end."""
        return {"low": self.low, "central": self.central, "high": self.high}[case]
