"""The largest request rate that keeps a service level: which rate to try next, and what the tries say together.

A rate is tried by measuring an open loop at it. It keeps the level if the share of good requests reaches what was asked
for and the queue does not grow. From the first rate the search doubles or halves until one rate keeps the level and one
does not, then halves their ratio until it is narrow.

What is found lies in an interval of its own. Requests are few, and a share of them is known within its 95 % interval
(Wilson's, of independent requests; latencies of neighbours are alike, so it is rather too narrow): the interval's lower
end is the largest rate whose share surely reaches the level, its upper end the smallest whose share surely does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from scipy.stats import binomtest

from tokenwatt.record import Measurement, Reason, Result, Status

QUANTITY = "max_request_rate_within_slo"
"""Name of what is found among the results."""
CONFIDENCE = 0.95
"""Of the interval of a share."""


@dataclass(frozen=True, slots=True)
class Try:
    """What was seen at one rate."""

    rate_per_s: float
    judged: int
    """Requests that ended in its windows."""
    good: int
    """Those of them that kept every limit."""
    queue_grows: bool
    """Whether requests came faster than they were answered."""
    share: float
    """Of good requests, that was asked for."""

    @classmethod
    def of(cls, rate_per_s: float, rows: Sequence[Measurement], share: float) -> Try:
        """From the windows of one rate; a rate at which the engine failed has no good requests."""
        good = [row for row in rows if row.status is Status.OK]
        return cls(
            rate_per_s,
            sum(row.requests_judged or 0 for row in good),
            sum(row.requests_within_slo or 0 for row in good),
            any(Reason.QUEUE_GROWS in row.reasons for row in good),
            share,
        )

    @property
    def keeps(self) -> bool:
        """Whether the rate keeps the level, by what was seen."""
        return not self.queue_grows and self.judged > 0 and self.good >= self.share * self.judged

    @property
    def surely_keeps(self) -> bool:
        """Whether chance does not explain that it does."""
        return self.keeps and self._interval[0] >= self.share

    @property
    def surely_breaks(self) -> bool:
        """Whether chance does not explain that it does not."""
        return self.queue_grows or self._interval[1] < self.share

    @property
    def _interval(self) -> tuple[float, float]:
        if not self.judged:
            return 0.0, 1.0
        interval = binomtest(self.good, self.judged).proportion_ci(CONFIDENCE, method="wilson")
        return float(interval.low), float(interval.high)


@dataclass(frozen=True, slots=True)
class MaxRate:
    """The largest rate that keeps the level."""

    rate_per_s: float | None
    """None if none did."""
    low_per_s: float | None
    """Largest rate that surely does; None if none does."""
    high_per_s: float | None
    """Smallest rate that surely does not; None if none was tried."""
    tries: int


def as_result(found: MaxRate, rows: Sequence[Measurement]) -> Result:
    """What was found as a row of `results`, filed under the point of that rate, whose windows are `rows`."""
    place = rows[0].model_dump(include=set(Result.model_fields))
    return Result.model_validate(
        {
            **place,
            "windows": sum(row.status is Status.OK for row in rows),
            "quantity": QUANTITY,
            "unit": "request/s",
            "mean": found.rate_per_s,
            "low": found.low_per_s,
            "high": found.high_per_s,
            "method": "bisection",
            "has_converged": None,
            "stable_windows": sum(row.is_stable is True for row in rows),
            "energy_status": None,
        }
    )


@dataclass(slots=True)
class RateSearch:
    """Tries so far, and the rate to try next."""

    first_per_s: float
    tolerance: float = 0.05
    """The search ends when the smallest rate that breaks the level is at most so much above the largest that keeps it,
    as a share."""
    most: int = 20
    """Tries at most."""
    tries: list[Try] = field(default_factory=list)

    def next_rate(self) -> float | None:
        """Requests a second; None if the search is over."""
        if not self.tries:
            return self.first_per_s
        keeps, breaks = self._bracket()
        if len(self.tries) >= self.most:
            return None
        if breaks is None:
            return 2 * max(each.rate_per_s for each in self.tries)
        if keeps is None:
            return breaks / 2
        return None if breaks <= keeps * (1 + self.tolerance) else math.sqrt(keeps * breaks)

    def outcome(self) -> MaxRate:
        """What the tries say; rates above one that breaks the level are not asked, whatever they seem to keep."""
        keeps, breaks = self._bracket()
        below = [each for each in self.tries if breaks is None or each.rate_per_s < breaks]
        return MaxRate(
            keeps,
            max((each.rate_per_s for each in below if each.surely_keeps), default=None),
            min((each.rate_per_s for each in self.tries if each.surely_breaks), default=None),
            len(self.tries),
        )

    def _bracket(self) -> tuple[float | None, float | None]:
        """The largest rate that keeps the level below the smallest that does not."""
        breaks = min((each.rate_per_s for each in self.tries if not each.keeps), default=None)
        kept = [each.rate_per_s for each in self.tries if each.keeps and (breaks is None or each.rate_per_s < breaks)]
        return max(kept, default=None), breaks
