"""The physical limit beside every measured row, by the machine's own measured ceilings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from tokenwatt.architecture import BYTES_PER_ELEMENT, Architecture
from tokenwatt.model_config import load_architecture, locate
from tokenwatt.perf_model.roofline import RooflineLimit, closed_loop_limit

LIMIT_COLUMNS = ("limit_output_tokens_per_s", "limit_bound", "share_of_limit")
_NEEDED = ("isl", "osl", "concurrency", "ceiling_memory_bytes_per_s", "ceiling_flop_per_s")


def add_limits(measurements: pd.DataFrame) -> pd.DataFrame:
    """Rows of the `measurements` table with `limit_output_tokens_per_s`, `limit_bound` and `share_of_limit` appended.

    Missing where there is nothing to compare: a failed row, a phase alone, ceilings that were not measured, an engine
    without a model, a model whose shape is not in the library, quantised weights or cache, or shared prefixes. Several
    GPUs count as one device with the sum of their ceilings.
    """
    rows = [row_limit(row) for row in measurements.to_dict("records")]
    speeds = pd.Series([row.output_tokens_per_s if row else None for row in rows], measurements.index, dtype="float64")
    bounds = pd.Series([row.bound if row else None for row in rows], measurements.index, dtype="object")
    shares = measurements["output_tokens_per_s"].astype("float64") / speeds
    return measurements.assign(**dict(zip(LIMIT_COLUMNS, (speeds, bounds, shares), strict=True)))


def row_limit(row: Mapping[Any, Any]) -> RooflineLimit | None:
    """Limit of one row of the `measurements` table; None where there is nothing to compare."""
    if (
        row["status"] != "ok"
        or row["phase"] != "mixed"
        or row["dtype"] not in BYTES_PER_ELEMENT
        or any(not _positive(row[key]) for key in _NEEDED)
    ):
        return None
    architecture = _architecture(row["model"])
    if architecture is None or not _is_plain(row, architecture):
        return None
    devices = max(int(row["gpu_count"]), 1)
    return closed_loop_limit(
        architecture,
        row["dtype"],
        row["isl"],
        row["osl"],
        row["concurrency"],
        row["ceiling_memory_bytes_per_s"] * devices,
        row["ceiling_flop_per_s"] * devices,
    )


def _is_plain(row: Mapping[Any, Any], architecture: Architecture) -> bool:
    """Whether all weights and the cache are in the row's dtype, as the limit has them, and every prompt is computed."""
    return (
        row["quantization"] in (None, "none")
        and row["kv_cache_dtype"] in (None, row["dtype"])
        and architecture.checkpoint_format == "plain"
        and not _positive(row["prefix_cache_hit_rate"])
    )


def _positive(value: float | None) -> bool:
    return value is not None and value > 0


def _architecture(model: object) -> Architecture | None:
    return load_architecture(model) if isinstance(model, str) and locate(model) is not None else None
