"""How well power is told of a board whose measurements are withheld."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from tokenwatt.perf_model.operator_power.prediction import load_operator_power
from tokenwatt.perf_model.operator_power.rows import PowerRow
from tokenwatt.perf_model.operator_power.trend import generation

RELATIVE = 1e-6


def hold_out_score(
    rates: pd.DataFrame, system: str, rows: Sequence[PowerRow], exclude_gpus: Collection[str] = ()
) -> pd.DataFrame:
    """Error and coverage by family over rows of `system` in the columns of `work.with_rates`.

    Columns: rows, median_error_percent, bias_percent (signed median), covered_percent (rows in the 80 % range; a
    reading above the cap counts as the cap, which meters overshoot).
    """
    power = load_operator_power(system, rows=rows, exclude_gpus=exclude_gpus)
    mine = rates[rates["system"] == system]
    measured = mine["power_w"].to_numpy()
    flop = {
        dtype: np.where(mine["dtype"] == dtype, mine["flop_per_s"], 0.0) for dtype in sorted(mine["dtype"].unique())
    }
    busy = {family: np.where(mine["family"] == family, 1.0, 0.0) for family in sorted(mine["family"].unique())}
    work = flop, mine["bytes_per_s"].to_numpy(), busy
    low, high = power.range_w(*work)
    capped = np.minimum(measured, power.cap_w)
    error = pd.Series((power.power_w(*work) / measured - 1) * 100, index=mine.index)
    inside = (capped >= low * (1 - RELATIVE)) & (capped <= high * (1 + RELATIVE))
    table = pd.DataFrame({"error": error, "absolute": error.abs(), "inside": inside * 100.0})
    grouped = table.groupby(mine["family"])
    return pd.DataFrame(
        {
            "rows": grouped.size(),
            "median_error_percent": grouped["absolute"].median(),
            "bias_percent": grouped["error"].median(),
            "covered_percent": grouped["inside"].mean(),
        }
    )


def generations_apart(systems: Collection[str], system: str) -> list[str]:
    """Systems that must be excluded so that nothing of the generation of `system`, or newer, is known."""
    return [name for name in systems if generation(name) >= generation(system)]
