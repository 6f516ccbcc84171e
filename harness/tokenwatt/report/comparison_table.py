"""The table of comparisons: B over A of each quantity, as the results have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tokenwatt.analysis.points import CONFIGURATION, point_name
from tokenwatt.record import LOAD_COLUMNS
from tokenwatt.report.tables import NOTHING, amount, maybe, percent

RATIO = "B/A of "
"""Quantities of `results` that begin so are ratios of compared points."""
_LABELS = {
    "output_tokens_per_s": "Output tokens/s",
    "joules_per_output_token": "J per output token",
    "gpu_power_w": "Board power",
    "ttft_median_s": "TTFT, median",
    "tpot_median_s": "TPOT, median",
}
_SYMBOLS = {"J/token": "J", "W": "W", "s": "s"}
_TOGETHER = ["run_id", "suite", "workload", *LOAD_COLUMNS.values(), "phase", "gpu_power_cap_w"]
_NAMED_BY = ("workload", *LOAD_COLUMNS.values(), "phase", "gpu_power_cap_w")


def comparison_rows(results: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per ratio, with what both sides measured."""
    rows = results.to_dict("records")
    sides = {(_place(row), row["variant"], row["quantity"]): row for row in rows}
    return [_comparison_row(row, sides) for row in rows if row["quantity"].startswith(RATIO)]


def _place(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    """Where A and B meet; a missing cap equals a missing cap."""
    return tuple(None if pd.isna(row[column]) else row[column] for column in _TOGETHER)


def _comparison_row(row: Mapping[Any, Any], sides: Mapping[tuple[Any, ...], Mapping[Any, Any]]) -> dict[str, Any]:
    quantity = row["quantity"].removeprefix(RATIO)
    low, high = maybe(row["low"]), maybe(row["high"])
    return {
        "name": point_name(row, _NAMED_BY),
        "quantity": _LABELS.get(quantity, quantity.replace("_", " ")),
        "a": _side_text(sides.get((_place(row), "A", quantity))),
        "b": _side_text(sides.get((_place(row), "B", quantity))),
        "pairs": int(row["windows"]),
        "ratio": f"{row['mean']:.3f}",
        "ends": "no interval" if low is None or high is None else f"{low:.3f} to {high:.3f}",
        "verdict": _verdict(row["mean"], low, high),
    }


def _side_text(row: Mapping[Any, Any] | None) -> str:
    return NOTHING if row is None else amount(row["mean"], _SYMBOLS.get(row["unit"], ""))


def _verdict(ratio: float, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "one pair: not to be said"
    if low <= 1 <= high:
        return "no difference beyond noise"
    return f"B {percent(abs(ratio - 1))} {'higher' if ratio > 1 else 'lower'}"


def variants(measurements: pd.DataFrame) -> list[tuple[str, str]]:
    """What A and B are: the columns in which they differ."""
    sides = measurements[measurements["variant"].notna()]
    if sides.empty:
        return []
    columns = [column for column in CONFIGURATION if sides[column].nunique(dropna=False) > 1]
    return [
        (str(side), "; ".join(dict.fromkeys(_side(row, columns) for row in rows.to_dict("records"))) or "same columns")
        for side, rows in sides.groupby("variant")
    ]


def _side(row: Mapping[Any, Any], columns: Sequence[str]) -> str:
    return ", ".join(f"{column} {NOTHING if pd.isna(row[column]) else row[column]}" for column in columns)
