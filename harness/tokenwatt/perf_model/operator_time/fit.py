"""A curve from measured times: robust least squares on log time, its spread, and a jackknife over layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import least_squares
from scipy.stats import t as student

from tokenwatt.errors import UserError
from tokenwatt.perf_model.operator_time.operators import Ceilings, Operator
from tokenwatt.perf_model.operator_time.work import Floats, Shape

SOFT_LOG = 0.1
"""Residuals of log time beyond this count linearly: a kernel that was chosen badly must not bend the curve."""
PULL = 3e-3
"""Weight of the starting values, small beside any residual: it only decides what the data leave open."""
ROWS = 2500
"""Rows of one fit at most; more of a grid adds nothing."""
FOLDS = 5
COVERAGE = 0.8
_NORMAL_QUANTILE = 1.2815515655446004


@dataclass(frozen=True, slots=True)
class Fit:
    """Parameters with 80 % intervals, and how far the measured times lie from the curve."""

    parameters: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    median_error: float
    """Median of |predicted / measured - 1|."""
    log_sd: float
    """Standard deviation of log(predicted / measured), from the middle 80 % of the rows."""
    rows: int


def shape_of(rows: pd.DataFrame, operator: Operator) -> Shape:
    """Shape columns as arrays."""
    return {name: rows[name].to_numpy(dtype=np.float64) for name in operator.columns}


def fit_curve(rows: pd.DataFrame, operator: Operator, dtype: str, ceilings: Ceilings) -> Fit:
    """Fit one curve.

    Args:
        rows: the operator's shape columns and latency_s.
        operator: what to fit.
        dtype: key of `precision.PRECISIONS`.
        ceilings: of the GPU that was measured.

    Raises:
        UserError: fewer rows than parameters.
    """
    if len(rows) <= len(operator.parameters):
        raise UserError(
            f"{operator.name} {dtype}: {len(operator.parameters)} parameters need more rows than {len(rows)}"
        )
    chosen = _sample(rows, operator)
    start = np.log([parameter.start for parameter in operator.parameters])
    best = _solve(chosen, operator, dtype, ceilings, start)
    folds = _folds(chosen, operator)
    solved = [_solve(chosen[folds != fold], operator, dtype, ceilings, best) for fold in np.unique(folds)]
    half = _half_width(np.array(solved), best)
    residual = _residual(best, chosen, operator, dtype, ceilings)
    names = [parameter.name for parameter in operator.parameters]
    low, high = np.quantile(residual, [0.5 - COVERAGE / 2, 0.5 + COVERAGE / 2])
    return Fit(
        dict(zip(names, map(float, np.exp(best)), strict=True)),
        dict(zip(names, map(float, np.exp(best - half)), strict=True)),
        dict(zip(names, map(float, np.exp(best + half)), strict=True)),
        float(np.median(np.abs(np.expm1(residual)))),
        float((high - low) / (2 * _NORMAL_QUANTILE)),
        len(chosen),
    )


def _residual(log_parameters: Floats, rows: pd.DataFrame, operator: Operator, dtype: str, at: Ceilings) -> Floats:
    names = (parameter.name for parameter in operator.parameters)
    parameters = dict(zip(names, map(float, np.exp(log_parameters)), strict=True))
    predicted = operator.seconds(shape_of(rows, operator), parameters, dtype, at)
    return np.log(predicted) - np.log(rows["latency_s"].to_numpy(dtype=np.float64))


def _solve(rows: pd.DataFrame, operator: Operator, dtype: str, ceilings: Ceilings, start: Floats) -> Floats:
    low = np.log([parameter.low for parameter in operator.parameters])
    high = np.log([parameter.high for parameter in operator.parameters])
    centre = np.log([parameter.start for parameter in operator.parameters])
    pull = PULL * np.sqrt(len(rows))

    def residuals(log_parameters: Floats) -> Floats:
        measured = _residual(log_parameters, rows, operator, dtype, ceilings)
        return np.concatenate([measured, pull * (log_parameters - centre) / (high - low)])

    inside = np.clip(start, low + 1e-6, high - 1e-6)
    return least_squares(residuals, inside, bounds=(low, high), loss="soft_l1", f_scale=SOFT_LOG).x


def _half_width(left_out: Floats, best: Floats) -> Floats:
    """Half of the 80 % interval of log parameters by a delete-a-group jackknife; left_out is (folds, parameters)."""
    count = len(left_out)
    if count < 2:
        return np.zeros_like(best)
    variance = (count - 1) / count * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
    return student.ppf(0.5 + COVERAGE / 2, count - 1) * np.sqrt(variance)


def _folds(rows: pd.DataFrame, operator: Operator) -> np.ndarray:
    """Fold of each row; rows of one layer stay together."""
    layers = rows.groupby(list(operator.groups), sort=True).ngroup().to_numpy()
    shuffled = np.random.default_rng(0).permutation(layers.max() + 1)
    return shuffled[layers] % FOLDS


def _sample(rows: pd.DataFrame, operator: Operator) -> pd.DataFrame:
    """At most ROWS rows, evenly over time on a log scale so that no corner of the tables' grid outweighs another."""
    if len(rows) <= ROWS:
        return rows
    size = np.log(rows["latency_s"].to_numpy(dtype=np.float64))
    edges = np.linspace(size.min(), size.max() + 1e-9, 13)
    bins = np.digitize(size, edges) - 1
    # Square root: the full inverse would give the few extreme rows the same say as all others.
    weight = 1.0 / np.sqrt(np.bincount(bins, minlength=len(edges))[bins])
    chosen = np.random.default_rng(0).choice(len(rows), ROWS, replace=False, p=weight / weight.sum())
    return rows.iloc[np.sort(chosen)]
