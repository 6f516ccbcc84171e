"""What a point was asked to be: the columns that tell one point from another, and what sets two points apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from tokenwatt.record import LOAD_COLUMNS, LOAD_WORDS

PLACE = ("run_id", "suite")
CONFIGURATION = (
    "engine",
    "engine_version",
    "model",
    "weights_source",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "tp",
    "seed",
)
LOAD = ("load", *LOAD_COLUMNS.values(), "burstiness", "ramp_s")
"""What was sent, and when."""
ASKED = (*PLACE, "workload", *CONFIGURATION, "phase", "variant", "gpu_power_cap_w", *LOAD)
"""Columns of `measurements` in which the rows of one point agree."""
TELLING = (
    "engine",
    "model",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "tp",
    "workload",
    *LOAD_COLUMNS.values(),
    "phase",
    "variant",
    "gpu_power_cap_w",
)
"""Those that people name a point by, in their order."""


def with_point(table: pd.DataFrame, measurements: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table that has `run_id` and `point_id`, with every column of `ASKED`; unknown points are left out."""
    points = measurements[["point_id", *ASKED]].drop_duplicates(["run_id", "point_id"])
    own = table.drop(columns=[column for column in ASKED if column != "run_id"], errors="ignore")
    return own.merge(points, on=["run_id", "point_id"], how="inner")


def groups(rows: pd.DataFrame, keys: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Rows that agree in `keys`, in the order in which they first occur; a missing value is a value like any other."""
    if not rows.empty:
        yield from (group for _, group in rows.groupby(list(keys), dropna=False, sort=False))


def names(rows: pd.DataFrame, always: Sequence[str] = ("engine", "model", "workload")) -> pd.Series:
    """A name for each row's point that holds what differs among the rows, or `always` where nothing does."""
    columns = [column for column in TELLING if rows[column].nunique(dropna=False) > 1] or list(always)
    return pd.Series([point_name(row, columns) for row in rows.to_dict("records")], rows.index, dtype="object")


def point_name(row: Mapping[Any, Any], columns: Sequence[str] = TELLING) -> str:
    """A point in words, without what it does not have.

    >>> point_name({"engine": "native", "concurrency": 8, "gpu_power_cap_w": 500.0}, ("concurrency", "gpu_power_cap_w"))
    'x8 · 500 W'
    """
    return " · ".join(filter(None, (_word(column, row[column]) for column in columns))) or "–"


def load_name(row: Mapping[Any, Any]) -> str:
    """How much of which load a row's requests were, in words.

    >>> load_name({"load": "open", "request_rate_per_s": 2.5})
    '2.5 req/s'
    """
    column = LOAD_COLUMNS[row["load"]]
    return _word(column, row[column])


_LEVELS = {column: LOAD_WORDS[kind] for kind, column in LOAD_COLUMNS.items()}


def _word(column: str, value: Any) -> str:
    if column == "gpu_power_cap_w":
        return "no cap" if pd.isna(value) else f"{value:g} W"
    if column in _LEVELS:
        return "" if pd.isna(value) else _LEVELS[column].format(value)
    if column == "tp":
        return "" if pd.isna(value) else f"tp {value:g}"
    return str(value) if isinstance(value, str) else ""
