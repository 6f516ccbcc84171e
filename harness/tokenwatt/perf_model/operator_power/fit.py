"""Fit of `model.demand_w` to measured operators of one GPU. Deterministic.

What the measurements are. Each problem was repeated for a moment and the board's meter read, which trails: readings of
matmuls and attention follow the problem before more than their own. So the scatter at equal rates is wide (10th to 90th
percentile: a factor of two). Against it

1. rows are gathered in cells of family, dtype, FLOP/s and bytes/s, half an octave wide, and a cell is its median;
2. families count equally, cells in a family by the root of their rows;
3. a loss that gives in to outliers (Cauchy) in the logarithm of power;
4. the cap is a rounded corner: cells at the cap say that demand is at least that, and no more.

A range holds what the fit gives when cells are read at their 35th and 65th percentile in place of their median, what
it gives when each reading is taken to be a mixture with the one before it (rows of a family must stand in the order in
which they were measured), and the 10th to 90th percentile when cells are drawn anew. The mixture explains readings far
better, but leaves static and pJ/FLOP loose: it sets the range and not the value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from tokenwatt.errors import UserError
from tokenwatt.perf_model.operator_power.model import Array, soft_minimum
from tokenwatt.perf_model.operator_power.rows import Name, Parameter
from tokenwatt.perf_model.operator_power.work import FAMILIES

CELLS_PER_OCTAVE = 2.0
LEAST_ROWS = 3
CORNER = 0.03
LOSS_SCALE = 0.1
NEAR_CAP = 0.96
PERCENTILES = (0.35, 0.65)
LEAST_OWN_SHARE = 0.2
"""Of a reading. With less, readings explain one another and the work explains nothing."""
DRAWS = 24
SEED = 20260
TERA = 1e12
_STATIC_BOUNDS = (0.08, 0.4)
"""Of the cap: idle boards draw a tenth of it, and nothing that works reads more than this when it does little."""
_HIGHEST_PART = 3.0
"""Of the cap, at a rate that is typical of the largest."""


Values = dict[Name, tuple[float, float, float]]
"""Low, value and high of each parameter."""


@dataclass(frozen=True, slots=True)
class PowerFit:
    """Parameters of one GPU with their ranges, and the measured operators behind them."""

    values: Values
    rows: int


def cells(rates: pd.DataFrame, percentile: float = 0.5) -> pd.DataFrame:
    """Cells of `work.with_rates` of one system, with `count` rows each and power at `percentile`."""
    grouped = rates.groupby(_cell_keys(rates), sort=True)
    table = pd.DataFrame(
        {
            "family": grouped["family"].first(),
            "dtype": grouped["dtype"].first(),
            "flop_per_s": grouped["flop_per_s"].median(),
            "bytes_per_s": grouped["bytes_per_s"].median(),
            "power_w": grouped["power_w"].quantile(percentile),
            "count": grouped.size(),
        }
    )
    return table[table["count"] >= LEAST_ROWS].reset_index(drop=True)


def _cell_keys(rates: pd.DataFrame) -> list:
    octaves = [np.round(np.log2(rates[name].to_numpy()) * CELLS_PER_OCTAVE) for name in ("flop_per_s", "bytes_per_s")]
    return [rates["family"], rates["dtype"], *octaves]


def cap_fraction(power_w: pd.Series, tdp_w: float) -> float:
    """Where rows crowd below the limit, as a share of it; 1 where none come near."""
    near = power_w[power_w >= NEAR_CAP * tdp_w]
    return float(near.median() / tdp_w) if len(near) >= LEAST_ROWS else 1.0


def fit_power(rates: pd.DataFrame, tdp_w: float, draws: int = DRAWS) -> PowerFit:
    """Fit rows of one system, in the columns of `work.with_rates`.

    Raises:
        UserError: too few rows for its parameters.
    """
    cap = cap_fraction(rates["power_w"], tdp_w)
    middle = cells(rates)
    names = _names(middle) if len(middle) else []
    if len(middle) <= len(names):
        raise UserError(
            f"parameters of power ({len(names)}) need more cells of {LEAST_ROWS} rows of equal work, got {len(middle)}"
        )
    central = _solve(middle, names, cap * tdp_w)
    others = [_solve(cells(rates, percentile), names, cap * tdp_w) for percentile in PERCENTILES]
    others.append(solve_with_meter(rates, names, cap * tdp_w)[0])
    generator = np.random.default_rng(SEED)
    drawn = []
    for _ in range(draws):
        redrawn = middle.iloc[np.sort(generator.integers(len(middle), size=len(middle)))]
        drawn.append(_solve(redrawn, names, cap * tdp_w))
    ends = np.quantile(np.array([central, *drawn]), (0.1, 0.9), axis=0)
    low = np.minimum.reduce([central, ends[0], *others])
    high = np.maximum.reduce([central, ends[1], *others])
    values: Values = {
        name: (float(least), float(value), float(most))
        for name, least, value, most in zip(names, low, central, high, strict=True)
    }
    errors = np.log(predicted_w(values, rates, cap * tdp_w) / rates["power_w"].to_numpy())
    spread = float(np.mean([_robust_sd(errors[rates["family"] == family]) for family in set(rates["family"])]))
    values["cap_fraction", ""] = (cap, cap, cap)
    values["error_log_sd", ""] = (spread, spread, spread)
    return PowerFit(values, len(rates))


def predicted_w(values: Values, rates: pd.DataFrame, cap_w: float) -> Array:
    """Power of each row by the central values, W."""
    names = [name for name in values if name[0] in _PARTS or name[0].startswith("busy_")]
    demand = _design(rates, names) @ np.array([values[name][1] for name in names])
    return np.minimum(demand, cap_w)


def score(predicted: Array, rates: pd.DataFrame) -> pd.DataFrame:
    """Median absolute and median signed error of power, %, and rows of each family."""
    error = pd.Series(predicted / rates["power_w"].to_numpy() - 1, index=rates.index) * 100
    grouped = error.groupby(rates["family"])
    return pd.DataFrame(
        {
            "rows": grouped.size(),
            "median_error_percent": error.abs().groupby(rates["family"]).median(),
            "bias_percent": grouped.median(),
        }
    )


_PARTS = ("static_w", "pj_per_flop", "pj_per_byte")
_BUSY: dict[str, Parameter] = {
    "moe": "busy_moe_w",
    "context_attention": "busy_context_attention_w",
    "generation_attention": "busy_generation_attention_w",
}


def _names(table: pd.DataFrame) -> list[Name]:
    """Parameters that the cells can tell. Of the families one is the reference, whose busy power lies in static."""
    present = [family for family in FAMILIES if (table["family"] == family).any()]
    reference = "gemm" if "gemm" in present else present[-1]
    dtypes = sorted(set(table["dtype"]))
    busy: list[Name] = [(_BUSY[family], "") for family in present if family != reference and family in _BUSY]
    formats: list[Name] = [("pj_per_flop", dtype) for dtype in dtypes]
    return [("static_w", ""), *busy, *formats, ("pj_per_byte", "")]


def _design(table: pd.DataFrame, names: list[Name]) -> Array:
    """One column for each parameter, in units such that W = columns @ parameters."""
    columns = []
    for name, dtype in names:
        if name == "static_w":
            columns.append(np.ones(len(table)))
        elif name == "pj_per_byte":
            columns.append(table["bytes_per_s"].to_numpy() / TERA)
        elif name == "pj_per_flop":
            columns.append(np.where(table["dtype"] == dtype, table["flop_per_s"], 0.0) / TERA)
        else:
            columns.append(np.where(table["family"] == name.removeprefix("busy_").removesuffix("_w"), 1.0, 0.0))
    return np.array(columns, dtype=float).T


def _solve(table: pd.DataFrame, names: list[Name], cap_w: float) -> Array:
    """Parameters that fit the cells best."""
    design, scale = _scaled(table, names, cap_w)
    weight = _weights(table["count"].to_numpy(dtype=float) ** 0.5, table["family"])
    measured = np.log(table["power_w"].to_numpy())

    def residual(share: Array) -> Array:
        return weight * (np.log(soft_minimum(design @ share, cap_w, CORNER)) - measured)

    return _least(residual, *_bounds(names)) * scale


def solve_with_meter(rates: pd.DataFrame, names: list[Name], cap_w: float) -> tuple[Array, dict[str, float]]:
    """Parameters, and for each family the share of a reading that is its own; the rest is the reading before it."""
    before = rates.groupby("family")["power_w"].shift()
    rows = rates[before.notna()]
    before_w = np.minimum(before.dropna().to_numpy(), cap_w)
    design, scale = _scaled(rows, names, cap_w)
    # As with cells: a cell counts by the root of its rows, each of them alike.
    keys = _cell_keys(rows)
    weight = _weights(rows.groupby(keys)["power_w"].transform("size").to_numpy(dtype=float) ** -0.5, rows["family"])
    measured = np.log(rows["power_w"].to_numpy())
    families = [family for family in FAMILIES if (rows["family"] == family).any()]
    member = np.array([np.where(rows["family"] == family, 1.0, 0.0) for family in families]).T

    def residual(parameters: Array) -> Array:
        own = member @ parameters[len(names) :]
        now_w = soft_minimum(design @ parameters[: len(names)], cap_w, CORNER)
        return weight * (np.log(own * now_w + (1 - own) * before_w) - measured)

    start, lower, upper = _bounds(names)
    count = len(families)
    answer = _least(
        residual,
        np.r_[start, np.full(count, 0.7)],
        np.r_[lower, np.full(count, LEAST_OWN_SHARE)],
        np.r_[upper, np.ones(count)],
    )
    return answer[: len(names)] * scale, dict(zip(families, map(float, answer[len(names) :]), strict=True))


def _scaled(table: pd.DataFrame, names: list[Name], cap_w: float) -> tuple[Array, Array]:
    """Columns of parameters in units of the cap at the largest rate, so that one start and one bound do for all."""
    design = _design(table, names)
    scale = cap_w / np.maximum(np.abs(design).max(axis=0), 1e-12)
    return design * scale, scale


def _weights(each: Array, families: pd.Series) -> Array:
    """Roots of weights, by which families count alike."""
    total = pd.Series(each).groupby(families.to_numpy()).transform("sum").to_numpy()
    weight = np.sqrt(each / total)
    return weight / np.sqrt(np.mean(weight**2))


def _bounds(names: list[Name]) -> tuple[Array, Array, Array]:
    """Start, least and most of scaled parameters."""
    start = np.array([0.2 if name == "static_w" else 0.15 if name.startswith("busy") else 0.5 for name, _ in names])
    lower = np.array([_STATIC_BOUNDS[0] if name == "static_w" else 0.0 for name, _ in names])
    upper = np.array([_STATIC_BOUNDS[1] if name == "static_w" else _HIGHEST_PART for name, _ in names])
    return start, lower, upper


def _least(residual: Callable[[Array], Array], start: Array, lower: Array, upper: Array) -> Array:
    answer = least_squares(
        residual, start, bounds=(lower, upper), loss="cauchy", f_scale=LOSS_SCALE, max_nfev=400, x_scale=0.1
    )
    return answer.x


def _robust_sd(errors: Array) -> float:
    return 1.4826 * float(np.median(np.abs(errors)))
