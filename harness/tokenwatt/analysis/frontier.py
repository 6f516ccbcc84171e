"""Speed against interactivity: the points of a sweep, and those of them that no other point beats in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from tokenwatt.analysis.points import ASKED, groups, load_name, names, with_point
from tokenwatt.record import LOAD_COLUMNS

MIN_POINTS = 7
"""Points that a frontier needs: MLPerf Endpoints asks for as many."""
_LINE = [column for column in ASKED if column not in LOAD_COLUMNS.values()]
"""Points that agree in these are one sweep."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over windows, with its 95 % interval where there is one."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """One level of a load."""

    label: str
    """The level in words."""
    pace: Estimate
    """Output tokens a second that one user sees: 1 / median TPOT."""
    speed: Estimate
    """Output tokens a second, per GPU where there is one."""
    joules: Estimate | None
    """Board energy per output token."""
    is_best: bool = False
    """Whether no other point of the sweep is at least as fast for all and for one, and faster for either."""


@dataclass(frozen=True, slots=True)
class Frontier:
    """One sweep, by rising pace."""

    name: str
    is_per_gpu: bool
    points: tuple[FrontierPoint, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it has points enough to be called a frontier."""
        return len(self.points) >= MIN_POINTS


def frontiers(measurements: pd.DataFrame, results: pd.DataFrame) -> list[Frontier]:
    """Sweeps of two levels or more whose points have a pace and a speed; mixed phase alone."""
    rows = with_point(results[results["phase"] == "mixed"], measurements)
    gpus = measurements.drop_duplicates("point_id").set_index("point_id")["gpu_count"].to_dict()
    rows = rows.assign(name=names(rows.assign(**dict.fromkeys(LOAD_COLUMNS.values(), 0))))
    return [found for line in groups(rows, _LINE) if (found := _frontier(line, gpus)) is not None]


def _frontier(line: pd.DataFrame, gpus: Mapping[Any, int]) -> Frontier | None:
    points = [point for rows in groups(line, ["point_id"]) if (point := _point(rows, gpus)) is not None]
    if len(points) < 2:
        return None
    marked = [replace(point, is_best=not _is_beaten(point, points)) for point in points]
    ordered = tuple(sorted(marked, key=lambda point: point.pace.mean))
    return Frontier(str(line["name"].iloc[0]), bool(gpus[line["point_id"].iloc[0]]), ordered)


def _point(rows: pd.DataFrame, gpus: Mapping[Any, int]) -> FrontierPoint | None:
    by_quantity = {str(row["quantity"]): row for row in rows.to_dict("records")}
    speed, tpot = by_quantity.get("output_tokens_per_s"), by_quantity.get("tpot_median_s")
    if speed is None or tpot is None or not tpot["mean"] > 0:
        return None
    joules = by_quantity.get("joules_per_output_token")
    devices = max(1, int(gpus[speed["point_id"]]))
    return FrontierPoint(
        load_name(speed),
        _inverse(_estimate(tpot)),
        _scaled(_estimate(speed), 1 / devices),
        None if joules is None else _estimate(joules),
    )


def _is_beaten(point: FrontierPoint, others: Sequence[FrontierPoint]) -> bool:
    place = (point.pace.mean, point.speed.mean)
    return any(
        (other.pace.mean, other.speed.mean) != place
        and other.pace.mean >= point.pace.mean
        and other.speed.mean >= point.speed.mean
        for other in others
    )


def _estimate(row: Mapping[Any, Any]) -> Estimate:
    low, high = (None if pd.isna(row[end]) else float(row[end]) for end in ("low", "high"))
    return Estimate(float(row["mean"]), low, high)


def _scaled(value: Estimate, factor: float) -> Estimate:
    low, high = (None if end is None else end * factor for end in (value.low, value.high))
    return Estimate(value.mean * factor, low, high)


def _inverse(value: Estimate) -> Estimate:
    """Of a positive quantity; an interval that reaches 0 has no upper end."""
    low = None if value.high is None else 1 / value.high
    high = None if value.low is None or value.low <= 0 else 1 / value.low
    return Estimate(1 / value.mean, low, high)
