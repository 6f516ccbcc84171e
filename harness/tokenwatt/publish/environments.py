"""Where the rows of a study were measured: each machine once, with its clocks, limits and ceilings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from tokenwatt.record import Environment

FILE = "environment.json"
_OF_A_ROW = ("git_commit", "ceiling_memory_bytes_per_s", "ceiling_flop_per_s", "tokenwatt_version")
MACHINE = tuple(name for name in Environment.model_fields if name not in _OF_A_ROW)
"""Columns in which the rows of one machine and its software agree."""
CEILINGS = ("run_id", "dtype", "ceiling_memory_bytes_per_s", "ceiling_flop_per_s")
_EXTREMES = {
    "gpu_power_limit_w": "gpu_power_limit_w",
    "gpu_power_limit_default_w": "gpu_power_limit_default_w",
    "gpu_sm_clock_min_hz": "gpu_sm_clock_hz",
    "gpu_memory_clock_min_hz": "gpu_memory_clock_hz",
    "gpu_idle_power_w": "gpu_idle_power_w",
}
"""Column with the low end -> column with the high end; the low one names the pair."""


def environments(measurements: pd.DataFrame, kernels: pd.DataFrame) -> list[dict[str, Any]]:
    """Each machine with its software, as plain values: columns of the record, runs, ceilings, and lowest and highest
    power limit, clocks in the windows and idle power over its rows."""
    tables = [_plain(table) for table in (measurements, kernels) if not table.empty]
    rows = [row for table in tables for row in table]
    machines = {json.dumps([row[name] for name in MACHINE]): row for row in reversed(rows)}
    return [
        _machine([row for row in rows if json.dumps([row[name] for name in MACHINE]) == key])
        for key in reversed(machines)
    ]


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    columns = [name for name in table if name in {*MACHINE, *_OF_A_ROW, *CEILINGS, *_EXTREMES, *_EXTREMES.values()}]
    return [dict(_plain_cells(row)) for row in table[columns].to_dict("records")]


def _plain_cells(row: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if hasattr(value, "tolist"):
            yield name, value.tolist()
        elif isinstance(value, (list, tuple)):
            yield name, list(value)
        else:
            yield name, None if pd.isna(value) else value


def _machine(rows: list[dict[str, Any]]) -> dict[str, Any]:
    ceilings = {tuple(row[name] for name in CEILINGS): None for row in rows if row["ceiling_flop_per_s"] is not None}
    return {
        **{name: rows[0][name] for name in MACHINE},
        "run_ids": list(dict.fromkeys(row["run_id"] for row in rows)),
        "ceilings": [dict(zip(CEILINGS, found, strict=True)) for found in ceilings],
        "extremes": {low: _ends(rows, low, high) for low, high in _EXTREMES.items()},
    }


def _ends(rows: list[dict[str, Any]], low: str, high: str) -> list[float] | None:
    lows = [row[low] for row in rows if row.get(low) is not None]
    highs = [row[high] for row in rows if row.get(high) is not None]
    return [min(lows), max(highs or lows)] if lows else None


def to_text(found: list[dict[str, Any]]) -> str:
    """The environments as JSON text."""
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"
