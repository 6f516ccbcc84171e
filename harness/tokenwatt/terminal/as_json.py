"""Rows as plain values with what is derived from them, for `--json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tokenwatt import metrics, store
from tokenwatt.perf_model.limits import LIMIT_COLUMNS, add_limits
from tokenwatt.power.virtual import Outcome
from tokenwatt.record import KernelTiming, Measurement, MeteredRun, Record

if TYPE_CHECKING:
    import pandas as pd


def rows_as_json(rows: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Measured columns, metrics and the physical limit of each row, as plain values."""
    if not rows:
        return []
    table = add_limits(metrics.derive(store.to_table(rows, Measurement).to_pandas()))
    return _with_computed(rows, table, [*(metric.name for metric in metrics.METRICS), *LIMIT_COLUMNS])


def kernel_rows_as_json(rows: Sequence[KernelTiming]) -> list[dict[str, Any]]:
    """Measured columns and metrics of each row, as plain values."""
    table = store.to_table(rows, KernelTiming).to_pandas()
    return _with_computed(rows, table, [metric.name for metric in metrics.KERNEL_METRICS])


def metered_rows_as_json(rows: Sequence[MeteredRun]) -> list[dict[str, Any]]:
    """Measured columns and metrics of each row, as plain values."""
    table = store.to_table(rows, MeteredRun).to_pandas()
    return _with_computed(rows, table, [metric.name for metric in metrics.METER_METRICS])


def outcomes_as_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Every field of each outcome, with its error and whether it is right."""
    return [{**asdict(outcome), "error": outcome.error, "is_right": outcome.is_right} for outcome in outcomes]


def _with_computed(rows: Sequence[Record], table: pd.DataFrame, computed: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {**row.model_dump(mode="json"), **{name: _plain(values[name]) for name in computed}}
        for row, values in zip(rows, table.to_dict("records"), strict=True)
    ]


def _plain(value: Any) -> Any:
    """None for a missing value: JSON has no NaN."""
    return None if value is None or value != value else value
