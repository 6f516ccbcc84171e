"""What repeated windows say together: a mean or a ratio with its 95 % interval, and when to stop repeating.

The interval is Student's by default. Windows are few (a point has 6 to 20), and there a bootstrap over windows is too
narrow: it resamples a spread that is itself underestimated, by the factor sqrt((n - 1) / n), and knows no t quantile.
Each window already averages thousands of tokens, so its error is close to normal. The bootstrap is for quantities that
are not, such as tails of latencies, with 20 windows or more.

Windows that agree by chance would make an interval narrower than what the meters can tell. So the half width of a mean
of joules is sqrt(t^2 + m^2): t from the spread of the n windows, m the root mean square of the half widths that the
meters leave open in each, over sqrt(n). A part of m is in the spread already, and counts twice: the interval is rather
too wide than too narrow. A wrong scale of a meter is in neither.

Consecutive windows share a board that warms up, so their errors may be alike. The interval is therefore that of fewer
values, n (1 - r) / (1 + r), with r the correlation of neighbours. An estimate of r from n values is too low by about
1 / n (Kendall 1954, Biometrika 41:403), which is added back; a negative r is taken for 0.

Stopping as soon as an interval is narrow favours windows that happen to agree, so that the interval covers less often
than 95 %. `MIN_WINDOWS` and the guard above keep that within 92 to 98 % (`tests/bench/test_statistics.py` tries it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
"""Of every interval."""
MIN_WINDOWS = 6
"""Fewer windows never end a series: if 3 may, intervals of independent windows cover 92 % at worst, with 6 94 %."""
MAX_CORRELATION = 0.9
"""Neighbours that seem more alike than this are taken to be so alike: an estimate near 1 says that there is a trend."""
BOOTSTRAP_WINDOWS = 20
"""Windows from which on a quantity whose errors are not normal is resampled."""
RESAMPLES = 9999
"""Of a bootstrap, the default of scipy."""

Method = Literal["t", "bootstrap"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, or a ratio, with its 95 % interval."""

    mean: float
    low: float | None
    """None with fewer than two values."""
    high: float | None
    method: Method | None
    count: int
    """Values behind it."""

    @property
    def relative_width(self) -> float:
        """(high - low) / |mean|; infinite where there is no interval or no mean to divide by."""
        if self.low is None or self.high is None or self.mean == 0:
            return math.inf
        return (self.high - self.low) / abs(self.mean)

    def is_within(self, width: float) -> bool:
        """Whether it is at most so wide, relative to its mean, and rests on enough values to stop at."""
        return self.count >= MIN_WINDOWS and self.relative_width <= width


def mean_interval(values: Sequence[float], open_halves: Sequence[float] = ()) -> Interval:
    """Mean of some windows' values with its t-interval.

    open_halves: half widths of the 95 % intervals that the instruments leave around the values, where they are known.

    Raises:
        ValueError: no values.
    """
    sample, mean = _sample_of(values)
    if len(sample) < 2:
        return Interval(mean, None, None, None, len(sample))
    half = math.hypot(float(half_width(sample)), half_width_of_instruments(open_halves))
    return Interval(mean, mean - half, mean + half, "t", len(sample))


def tail_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean of some windows' values whose errors are not normal: by bootstrap (BCa) with windows enough, else by t.

    The ends are moved away from the mean by what neighbours that are alike cost, as in a t-interval.

    seed: of the bootstrap's draws.

    Raises:
        ValueError: no values.
    """
    sample, mean = _sample_of(values)
    if len(sample) < BOOTSTRAP_WINDOWS or np.ptp(sample) == 0:
        return mean_interval(values)
    drawn = stats.bootstrap(
        (sample,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method="BCa", rng=seed
    ).confidence_interval
    alike = math.sqrt(len(sample) / float(effective_count(sample)))
    low, high = (mean + alike * (float(end) - mean) for end in (drawn.low, drawn.high))
    return Interval(mean, low, high, "bootstrap", len(sample))


def half_width_of_instruments(open_halves: Sequence[float]) -> float:
    """What instruments leave open of the mean of values, from what they leave open of each; 0 without any."""
    return float(np.linalg.norm(open_halves)) / len(open_halves) if len(open_halves) else 0.0


def _sample_of(values: Sequence[float]) -> tuple[NDArray[np.float64], float]:
    """The values, and their mean."""
    if not len(values):
        raise ValueError("an interval needs at least one value, got none")
    sample = np.asarray(values, dtype=float)
    return sample, float(sample.mean())


def ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float], open_shares: Sequence[float] = ()
) -> Interval:
    """Geometric mean of the ratios of pairs, with the interval of their mean logarithm, which swapping sides inverts.

    open_shares: half widths of the 95 % intervals that the instruments leave around the ratios, as shares of them.

    Raises:
        ValueError: no pairs, sides of different length, or a value that is not positive.
    """
    if len(numerators) != len(denominators) or not numerators:
        raise ValueError(f"needs as many numerators as denominators, got {len(numerators)} and {len(denominators)}")
    if min(*numerators, *denominators) <= 0:
        raise ValueError("a ratio needs positive values")
    ratios = [math.log(over / under) for over, under in zip(numerators, denominators, strict=True)]
    logs = mean_interval(ratios, open_shares)
    low, high = (None if end is None else math.exp(end) for end in (logs.low, logs.high))
    return Interval(math.exp(logs.mean), low, high, logs.method, logs.count)


def has_converged(values: Sequence[float], width: float, open_halves: Sequence[float] = ()) -> bool:
    """Whether (high - low) / mean of these windows is at most `width`, with at least `MIN_WINDOWS` of them."""
    return len(values) >= MIN_WINDOWS and mean_interval(values, open_halves).is_within(width)


def half_width(values: ArrayLike) -> NDArray[np.float64]:
    """Half of the t-interval of the mean over the last axis; values [..., n] with n >= 2."""
    sample = np.asarray(values, dtype=float)
    count = sample.shape[-1]
    error = sample.std(axis=-1, ddof=1) / np.sqrt(effective_count(sample))
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error


def effective_count(values: ArrayLike) -> NDArray[np.float64]:
    """How many independent values are as good as these [..., n], of which neighbours may be alike."""
    sample = np.asarray(values, dtype=float)
    count = sample.shape[-1]
    rest = sample - sample.mean(axis=-1, keepdims=True)
    power = (rest * rest).sum(axis=-1)
    alike = (rest[..., 1:] * rest[..., :-1]).sum(axis=-1) / np.where(power > 0, power, 1.0) + 1 / count
    correlation = np.where(power > 0, np.clip(alike, 0.0, MAX_CORRELATION), 0.0)
    return count * (1 - correlation) / (1 + correlation)
