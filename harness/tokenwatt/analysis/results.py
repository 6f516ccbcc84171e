"""From the windows of a point to one line for each quantity: mean and interval, recomputable from `measurements`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tokenwatt import metrics
from tokenwatt.analysis.statistics import Interval, mean_interval, ratio_interval, tail_interval
from tokenwatt.record import LOAD_COLUMNS, WORST_FIRST, EnergyStatus, Measurement, Phase, Result, Status
from tokenwatt.schema import unit_of

DECIDING: dict[Phase, tuple[str, str]] = {
    "mixed": ("joules_per_output_token", "output_tokens_per_s"),
    "prefill": ("prefill_joules_per_input_token", "input_tokens_per_s"),
    "decode": ("decode_joules_per_output_token", "output_tokens_per_s"),
}
"""Phase -> the quantity whose interval ends a series of windows, with energy and without."""

QUANTITIES = (
    "output_tokens_per_s",
    "input_tokens_per_s",
    "joules_per_output_token",
    "marginal_joules_per_output_token",
    "prefill_joules_per_input_token",
    "decode_joules_per_output_token",
    "gpu_power_w",
    "requests_per_s",
    "goodput_requests_per_s",
    "usd_per_mtok_output",
    *(f"{latency}_{word}_s" for latency in ("ttft", "tpot", "itl", "e2el") for word in ("mean", "median", "p99")),
)
"""Columns and metrics that are averaged, where a point's windows have them."""

TAILS = frozenset({"ttft_p99_s", "tpot_p99_s", "itl_p99_s", "e2el_p99_s"})
"""Those whose errors are not normal."""

PER = {
    "joules_per_output_token": "output_tokens",
    "marginal_joules_per_output_token": "output_tokens",
    "prefill_joules_per_input_token": "input_tokens",
    "decode_joules_per_output_token": "output_tokens",
    "gpu_power_w": "window_s",
}
"""Quantity with energy -> the column that its joules are divided by."""

COMPARED = ("output_tokens_per_s", "joules_per_output_token", "gpu_power_w", "ttft_median_s", "tpot_median_s")
"""Quantities whose ratio B / A is taken."""

_RATIO = "B/A of "
_PLACE = ("run_id", "point_id", "suite", "workload", "engine", "model", "phase", "variant", "load")
_PAIRED_BY = ["run_id", "workload", *LOAD_COLUMNS.values(), "phase", "gpu_power_cap_w"]


def ratio_of(quantity: str) -> str:
    """Name of the quantity of side B over that of side A."""
    return f"{_RATIO}{quantity}"


def is_ratio(result: Result) -> bool:
    """Whether it is one."""
    return result.quantity.startswith(_RATIO)


def results_of(measurements: pd.DataFrame, interval_width: float | None = None) -> list[Result]:
    """Every quantity of every point, then the ratios of compared points.

    All windows with status `ok` count, and for energy those with joules: what a window found is no reason to leave it
    out, or the mean would be one of chosen windows. Its doubts stand in its row; the result says how many windows are
    stable, and what the worst verdict on their energy is.

    Args:
        measurements: the `measurements` table, or rows of it.
        interval_width: the width that was asked for; None (or 0) where none was.
    """
    good = metrics.derive(measurements[measurements["status"] == Status.OK])
    averages = [
        result for _, rows in good.groupby("point_id", sort=False) for result in _averages(rows, interval_width or None)
    ]
    sides = good[good["variant"].notna()]
    ratios = [
        result
        for _, rows in sides.groupby(_PAIRED_BY, sort=False, dropna=False)
        for result in _ratios(rows, interval_width or None)
    ]
    return averages + ratios


def deciding_quantity(rows: pd.DataFrame) -> str:
    """What ends the series of these windows of one point: energy per token if any has it, else tokens per second."""
    energy, speed = DECIDING[rows["phase"].iloc[0]]
    return energy if rows[energy].notna().any() else speed


def _averages(rows: pd.DataFrame, width: float | None) -> Iterator[Result]:
    deciding = deciding_quantity(rows)
    for quantity in QUANTITIES:
        counted = rows[rows[quantity].notna()]
        if not counted.empty:
            # In a comparison it is the ratio whose width was asked for.
            asked = width if quantity == deciding and pd.isna(rows["variant"].iloc[0]) else None
            trust = _Trust(int(_is_stable(counted).sum()), _worst_status(counted) if quantity in PER else None)
            yield _result(rows.iloc[0], quantity, _unit(quantity), _interval(counted, quantity), asked, trust)


def _interval(rows: pd.DataFrame, quantity: str) -> Interval:
    """Of the mean of a quantity that all rows have."""
    values = rows[quantity].tolist()
    if quantity in TAILS:
        return tail_interval(values)
    open_j = rows["gpu_energy_half_width_j"]
    return mean_interval(values, (open_j / rows[PER[quantity]]).dropna().tolist() if quantity in PER else ())


@dataclass(frozen=True, slots=True)
class _Trust:
    """What the windows of a result were found to be."""

    stable_windows: int
    energy_status: EnergyStatus | None


def _is_stable(rows: pd.DataFrame) -> pd.Series:
    return rows["is_stable"].eq(True)


def _worst_status(rows: pd.DataFrame) -> EnergyStatus:
    found = set(rows["energy_status"])
    return next(status for status in WORST_FIRST if status in found)


def _ratios(rows: pd.DataFrame, width: float | None) -> Iterator[Result]:
    """Ratios of the pairs of windows of two points that differ in their side alone; filed under side B."""
    sides = {side: rows[rows["variant"] == side].set_index("window_index") for side in ("A", "B")}
    if any(side.empty for side in sides.values()):
        return
    deciding = deciding_quantity(rows)
    for quantity in COMPARED:
        pairs = pd.concat([sides["A"][quantity], sides["B"][quantity]], axis=1, keys=["A", "B"]).dropna()
        pairs = pairs[(pairs > 0).all(axis=1)]
        if len(pairs):
            paired = [sides[side].loc[pairs.index] for side in ("A", "B")]
            is_stable = _is_stable(paired[0]) & _is_stable(paired[1])
            status = _worst_status(pd.concat(paired)) if quantity in PER else None
            shares = _open_shares(*paired) if quantity in PER else ()
            interval = ratio_interval(pairs["B"].tolist(), pairs["A"].tolist(), shares)
            place, asked = {**sides["B"].iloc[0], "variant": None}, width if quantity == deciding else None
            yield _result(place, ratio_of(quantity), "1", interval, asked, _Trust(int(is_stable.sum()), status))


def _open_shares(*sides: pd.DataFrame) -> list[float]:
    """What the meters leave open of the ratio of each pair's joules, where both sides say it."""
    squares = [(side["gpu_energy_half_width_j"] / side["gpu_energy_j"]) ** 2 for side in sides]
    return (sum(squares[1:], squares[0]) ** 0.5).dropna().tolist()


def _result(place: Any, quantity: str, unit: str, interval: Interval, width: float | None, trust: _Trust) -> Result:
    cap_w = place["gpu_power_cap_w"]
    return Result.model_validate(
        {
            **{name: _none_for_missing(place[name]) for name in _PLACE},
            **{column: _level(column, place[column]) for column in LOAD_COLUMNS.values()},
            "gpu_power_cap_w": None if pd.isna(cap_w) else float(cap_w),
            "windows": interval.count,
            "quantity": quantity,
            "unit": unit,
            "mean": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "method": interval.method,
            "has_converged": None if width is None else interval.is_within(width),
            "stable_windows": trust.stable_windows,
            "energy_status": trust.energy_status,
        }
    )


def _level(column: str, value: Any) -> float | int | None:
    """How much of a load, in the type of its column."""
    if pd.isna(value):
        return None
    return float(value) if column in ("request_rate_per_s", "replay_speed") else int(value)


def _none_for_missing(value: Any) -> Any:
    return None if pd.isna(value) else value


def _unit(quantity: str) -> str:
    units = {metric.name: metric.unit for metric in metrics.METRICS}
    return units.get(quantity) or unit_of(Measurement, quantity) or "1"
