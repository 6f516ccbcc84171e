"""A against B from windows that were taken in turns: drift that both share leaves their ratio alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from tokenwatt.analysis.points import PLACE, groups, point_name

CONFIDENCE = 0.95
_TOGETHER = (*PLACE, "workload", "concurrency", "phase", "gpu_power_cap_w")
"""A and B differ in what a person chose, so nothing else may tell the pairs apart."""


@dataclass(frozen=True, slots=True)
class PairedRatio:
    """B over A of one quantity at one point."""

    name: str
    """Point: workload, concurrency, phase, cap."""
    quantity: str
    """Metric of `measurements`."""
    a: float
    """Mean of A over the pairs."""
    b: float
    """Mean of B over the pairs."""
    pairs: int
    """Windows of A that have a window of B beside them."""
    ratio: float
    """Geometric mean of B / A over the pairs."""
    low: float | None
    """Lower end of its 95 % interval (t over the logarithms); None with one pair."""
    high: float | None
    """Upper end."""

    @property
    def is_apart(self) -> bool | None:
        """Whether the interval leaves 1 out; None without an interval."""
        return None if self.low is None or self.high is None else not self.low <= 1 <= self.high


def paired_ratios(measurements: pd.DataFrame, quantities: tuple[str, ...]) -> list[PairedRatio]:
    """Ratios of every comparison in `measurements`: good stable windows of A and B with the same `window_index`."""
    good = measurements[(measurements["status"] == "ok") & measurements["is_stable"].fillna(value=True).astype(bool)]
    sides = good[good["variant"].notna()]
    return [
        found
        for point in groups(sides, _TOGETHER)
        for quantity in quantities
        if (found := _ratio(point, quantity)) is not None
    ]


def _ratio(point: pd.DataFrame, quantity: str) -> PairedRatio | None:
    pairs = point.pivot_table(index="window_index", columns="variant", values=quantity, aggfunc="mean")
    if not {"A", "B"} <= set(pairs.columns):
        return None
    pairs = pairs[(pairs[["A", "B"]] > 0).all(axis=1)]
    if pairs.empty:
        return None
    ratio, low, high = geometric_interval((pairs["B"] / pairs["A"]).to_numpy())
    columns = ("workload", "concurrency", "phase", "gpu_power_cap_w")
    return PairedRatio(
        name=point_name(point.iloc[0].to_dict(), columns),
        quantity=quantity,
        a=float(pairs["A"].mean()),
        b=float(pairs["B"].mean()),
        pairs=len(pairs),
        ratio=ratio,
        low=low,
        high=high,
    )


def geometric_interval(ratios: np.ndarray) -> tuple[float, float | None, float | None]:
    """Geometric mean of positive ratios with the ends of its t-interval, which one ratio alone does not have.

    >>> geometric_interval(np.array([2.0]))
    (2.0, None, None)
    """
    logs = np.log(ratios)
    mean = float(logs.mean())
    if len(logs) < 2:
        return float(np.exp(mean)), None, None
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs)))
    return float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(mean + half))
