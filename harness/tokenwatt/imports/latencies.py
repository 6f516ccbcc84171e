"""Latency columns of an imported row: what its tool says, and what follows from the single values where it does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, create_model

from tokenwatt.imports.document import NonNegativeNumber, Part

METRICS = ("ttft", "tpot", "itl", "e2el")
"""Latencies that a row has."""
STATISTICS: dict[str, float | None] = {
    "mean": None,
    "median": 50.0,
    "p90": 90.0,
    "p95": 95.0,
    "p99": 99.0,
    "p99_9": 99.9,
}
"""Statistic of a column -> its percentile; None for the mean."""
MS = 1e-3
"""Seconds of a millisecond."""


def column(metric: str, statistic: str) -> str:
    """Name of a column.

    >>> column("ttft", "p99_9")
    'ttft_p99_9_s'
    """
    return f"{metric}_{statistic}_s"


def summary_model(key: Callable[[str, str], str]) -> type[Part]:
    """A model of a file with a key for each metric and statistic: our columns, read from `key(metric, statistic)`.

    Each is optional; tools leave out what nobody asked for.
    """
    fields: dict[str, Any] = {
        column(metric, statistic): (NonNegativeNumber | None, Field(default=None, alias=key(metric, statistic)))
        for metric in METRICS
        for statistic in STATISTICS
    }
    return create_model("Summary", __base__=Part, **fields)


def told(summary: Part, scale: float) -> dict[str, float | None]:
    """Columns of a summary in seconds; `scale` is the seconds of its unit."""
    return {name: _scaled(value, scale) for name, value in summary.model_dump().items()}


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def computed(metric: str, values_s: Sequence[float]) -> dict[str, float | None]:
    """Columns of one metric from its single values; percentiles as numpy has them, linear between two values.

    >>> computed("ttft", [1.0, 3.0])["ttft_median_s"], computed("ttft", [])["ttft_mean_s"]
    (2.0, None)
    """
    if not len(values_s):
        return {column(metric, statistic): None for statistic in STATISTICS}
    return {
        column(metric, statistic): float(np.mean(values_s) if share is None else np.percentile(values_s, share))
        for statistic, share in STATISTICS.items()
    }


def completed(columns: Mapping[str, float | None], values_s: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    """What the tool says, and for what it leaves out, what follows from its single values (metric -> seconds)."""
    filled = dict(columns)
    for metric, values in values_s.items():
        for name, value in computed(metric, values).items():
            if filled.get(name) is None:
                filled[name] = value
    return filled
