"""The fitted predictor: engine parameters, what cells have in common, board power, and how sure all of it is.

    1. Engine parameters by robust least squares on log TPOT, log tokens/s and log TTFT, with their priors. Every cell
       (model family x group x system) weighs about the same, however many rows it has.
    2. What is left, cell by cell (`cell_effects`).
    3. Board power on the rows that have it (`board_power`).

The shipped fit comes from published H100 and H200 rows; rows of Blackwell that it had not seen gave the spreads between
generations and widened the intervals to 80 % (`python -m tokenwatt.perf_model.ship`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from tokenwatt.errors import UserError
from tokenwatt.perf_model.base_times import BaseTimes, base_times
from tokenwatt.perf_model.board_power import FEATURES, features, fit_power, power_w
from tokenwatt.perf_model.cell_effects import (
    Cell,
    Place,
    Spreads,
    cells_of,
    expected,
    fit_spreads,
    spread_within,
)
from tokenwatt.perf_model.engine_model import GROUPS, Loop, Served, group_place, loop_of, priors, served
from tokenwatt.perf_model.operation_kinds import DECODE, PREFILL
from tokenwatt.perf_model.plan import Plan, is_batch_open, is_split_open, plan_case
from tokenwatt.perf_model.predictions import QUANTITIES

Floats = NDArray[np.float64]

ROW_LOG_SD = 0.15
"""What a row is off by, before anything is known: the scale beyond which the fit takes a row for an outlier."""
MOST_WORK = 1.5
"""Of a row, in times of what it took. All Hopper rows beyond it are of one series, but for one."""
CELL_WEIGHT = 2.0
"""Rows of a cell together count as so many independent ones, squared."""
LEAST_CELL = 8
FEW_ROWS = 100
"""Of a quantity, below which its rows say less of how rows scatter than the shipped fit does."""
_TTFT_WEIGHT = 0.3
"""TTFT is mostly waiting: it must not bend what decides the others."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted predictor."""

    log_parameters: dict[str, float]
    """By name (`engine_model.priors`)."""
    cells: tuple[Cell, ...]
    spreads: Spreads
    row_log_sd: dict[str, float]
    """Of a row within its cell, by quantity."""
    power: tuple[float, ...]
    """Coefficients of `board_power.FEATURES`."""
    widen: dict[str, float]
    """What calibration on rows not seen multiplied the spread of a quantity by: by quantity, and by quantity and
    setting."""
    carried: float
    """What it multiplied the spread of carried-over curves by."""
    rows: int
    systems: tuple[str, ...]
    exclude_gpus: tuple[str, ...] = ()
    """Systems whose operator tables it must not use."""
    known: pd.DataFrame | None = field(default=None, compare=False)
    """The rows themselves, which answer for equal cases."""

    def widened(self, quantity: str, setting: str) -> float:
        """What the spread of a quantity is multiplied by in cases of a setting (`Plan.setting`)."""
        return self.widen.get(f"{quantity}, {setting}", self.widen.get(quantity, 1.0))

    @property
    def vector(self) -> Floats:
        """Parameters in the order of `priors`."""
        return np.array([self.log_parameters[prior.name] for prior in priors()])


@dataclass(frozen=True, slots=True)
class Planned:
    """Cases that were planned, with their times."""

    plans: list[Plan]
    base: BaseTimes
    loop: Loop

    @property
    def places(self) -> list[Place]:
        """Where each belongs."""
        return [Place(GROUPS[group_place(plan)], plan.family, plan.system) for plan in self.plans]


def planned(plans: list[Plan], exclude_gpus: Sequence[str] = ()) -> Planned:
    """Times of the operations of plans."""
    base = base_times(plans, exclude_gpus)
    return Planned(plans, base, loop_of(plans, base))


def fit_rows(rows: pd.DataFrame, exclude_gpus: Sequence[str] = ()) -> Fit:
    """Fit on valid rows (`check_cases`) with their measured columns.

    Left out are rows that do not fit, that do not say how they ran, and that are faster than their GPUs can be.

    Raises:
        UserError: no row is left, or none has a measured speed.
    """
    known, plans = plannable(rows)
    if not plans:
        raise UserError("no row can be fitted on: none says how a model that fits its GPUs is run on them")
    kept, cases = _possible(known, planned(plans, exclude_gpus), exclude_gpus)
    measured = {name: kept[name].to_numpy(dtype=np.float64) for name in QUANTITIES}
    if not (np.isfinite(measured["tpot_s"]) | np.isfinite(measured["output_tokens_per_s_per_gpu"])).any():
        raise UserError("no row can be fitted on: none has output_tokens_per_s_per_gpu or tpot_s")
    weights = _cell_weights(cases.places)
    vector = _fit_parameters(cases.loop, measured, weights)
    now = served(vector, cases.loop)
    residuals = time_residuals(now, cases.loop, measured)
    row = spread_within(cases.places, residuals)
    cells = cells_of(cases.places, residuals)
    fit = Fit(
        log_parameters=dict(zip((prior.name for prior in priors()), map(float, vector), strict=True)),
        cells=tuple(cells),
        spreads=_spreads(cells, row),
        row_log_sd={},
        power=(),
        widen={},
        carried=1.0,
        rows=len(kept),
        systems=tuple(sorted({plan.system for plan in cases.plans})),
        exclude_gpus=tuple(exclude_gpus),
        known=kept,
    )
    central = at_expected(fit, cases)
    table, limit = features(cases.plans, cases.base, cases.loop, central)
    coefficients = fit_power(table, limit, measured["gpu_power_w"], weights)
    shipped = _shipped_or_none()
    if coefficients is not None:
        fit = replace(fit, power=tuple(map(float, coefficients)))
    elif shipped is not None:
        fit = replace(fit, power=shipped.power)
    else:
        raise UserError(f"no power can be fitted: give at least {len(FEATURES)} rows with gpu_power_w")
    widen = dict(shipped.widen) if shipped else {}
    carried = shipped.carried if shipped else 1.0
    spreads = _row_spreads(fit, cases, measured, shipped)
    return replace(fit, row_log_sd=spreads, widen=widen, carried=carried)


def at_expected(fit: Fit, cases: Planned) -> Served:
    """The steady state with what cells have in common."""
    mean, _ = expected(cases.places, fit.cells, fit.spreads)
    return served(fit.vector, cases.loop, mean)


def central(fit: Fit, cases: Planned, now: Served | None = None) -> dict[str, Floats]:
    """Central value of every quantity."""
    now = at_expected(fit, cases) if now is None else now
    table, limit = features(cases.plans, cases.base, cases.loop, now)
    watts = power_w(np.array(fit.power), table, limit)
    speed = now.tokens_per_s_per_gpu
    return dict(zip(QUANTITIES, (speed, now.tpot_s, now.ttft_s, watts, watts / speed), strict=True))


def time_residuals(now: Served, loop: Loop, measured: dict[str, Floats]) -> Floats:
    """log(measured / predicted) of the time of a token: by TPOT, by tokens/s, or the mean of both where they differ."""
    with np.errstate(divide="ignore", invalid="ignore"):
        by_gap = np.log(measured["tpot_s"] / now.tpot_s)
        by_rate = -np.log(measured["output_tokens_per_s_per_gpu"] / now.tokens_per_s_per_gpu)
    both = np.where(loop.is_gap, (by_gap + by_rate) / 2, by_gap)
    return np.where(np.isfinite(both), both, np.where(np.isfinite(by_gap), by_gap, by_rate))


def plannable(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Plan]]:
    """Rows that can be planned as they are, and their plans; those that leave a split or a batch open cannot."""
    plans, keep = [], []
    for index, row in zip(rows.index, rows.to_dict("records"), strict=True):
        if is_split_open(row) or is_batch_open(row):
            continue
        try:
            plans.append(plan_case(row))
        except UserError:
            # Said to whoever asks for this case; a row that contradicts itself teaches nothing.
            continue
        keep.append(index)
    return rows.loc[keep], plans


def _possible(rows: pd.DataFrame, cases: Planned, exclude_gpus: Sequence[str]) -> tuple[pd.DataFrame, Planned]:
    """Rows that serve no more than their GPUs can compute, and their cases.

    Others have prompts in a cache or tokens drafted that no label tells: by the operator curves their prompts and steps
    take MOST_WORK times as long as they took. Where that is so of most rows of a source, model and system, none of them
    is believed.
    """
    loop = cases.loop
    measured = rows["output_tokens_per_s_per_gpu"].to_numpy(dtype=np.float64) * loop.gpus / loop.ranks
    prompt = loop.seconds[:, PREFILL].sum(axis=1) * loop.share_of_chunk / loop.osl
    step = loop.seconds[:, DECODE].sum(axis=1) * loop.stages / (loop.batch * loop.accepted)
    is_possible = pd.Series(loop.has_pools | ~(measured * (prompt + step) > MOST_WORK), index=rows.index)
    series = rows[["source_set", "engine", "family", "system", "weight_dtype"]].agg("|".join, axis=1)
    is_possible = (is_possible & (is_possible.groupby(series).transform("mean") >= 0.5)).to_numpy()
    if is_possible.all() or not is_possible.any():
        return rows, cases
    return rows[is_possible], planned([cases.plans[place] for place in np.flatnonzero(is_possible)], exclude_gpus)


def _cell_weights(places: Sequence[Place]) -> Floats:
    counts = pd.Series(list(places)).map(pd.Series(list(places)).value_counts()).to_numpy(dtype=np.float64)
    return CELL_WEIGHT / np.sqrt(np.maximum(counts, LEAST_CELL))


def _fit_parameters(loop: Loop, measured: dict[str, Floats], weights: Floats) -> Floats:
    centre = np.log([prior.median for prior in priors()])
    spread = np.array([prior.log_sd for prior in priors()])
    asked = (("tpot_s", 1.0), ("output_tokens_per_s_per_gpu", 1.0), ("ttft_s", _TTFT_WEIGHT))
    logs = {name: np.log(measured[name]) for name, _ in asked}
    known = {name: np.isfinite(values) for name, values in logs.items()}

    def off(vector: Floats) -> Floats:
        now = served(vector, loop)
        found = {"tpot_s": now.tpot_s, "output_tokens_per_s_per_gpu": now.tokens_per_s_per_gpu, "ttft_s": now.ttft_s}
        return np.concatenate(
            [
                (np.log(found[name]) - logs[name])[known[name]] * weights[known[name]] * weight / ROW_LOG_SD
                for name, weight in asked
            ]
        )

    # What no row depends on stays where its prior has it: engines and formats that the rows are not of.
    at_centre, steps = off(centre), 0.1 * np.eye(len(centre))
    moves = np.array([not np.array_equal(off(centre + step), at_centre) for step in steps])

    def residuals(moved: Floats) -> Floats:
        vector = centre.copy()
        vector[moves] = moved
        return np.concatenate([off(vector), (moved - centre[moves]) / spread[moves]])

    fitted = centre.copy()
    fitted[moves] = least_squares(residuals, centre[moves], loss="soft_l1", max_nfev=30).x
    return fitted


def _spreads(cells: Sequence[Cell], row: float) -> Spreads:
    """The shipped ones, which the widening of intervals was calibrated with; those of the cells to make a first fit."""
    shipped = _shipped_or_none()
    return fit_spreads(cells, row) if shipped is None else replace(shipped.spreads, row=row)


def _row_spreads(fit: Fit, cases: Planned, measured: dict[str, Floats], shipped: Fit | None) -> dict[str, float]:
    """Of each quantity, of rows around their cell; of few, which a fit meets too well, at least the shipped one."""
    found = central(fit, cases)
    spreads = {}
    for name in QUANTITIES:
        with np.errstate(divide="ignore", invalid="ignore"):
            off = np.log(measured[name] / found[name])
        known = int(np.isfinite(off).sum())
        least = shipped.row_log_sd[name] if shipped is not None else fit.spreads.row
        own = spread_within(cases.places, off) if known else least
        spreads[name] = own if known >= FEW_ROWS else max(own, least)
    return spreads


SHIPPED = Path(__file__).with_name("shipped_fit.json")


@cache
def shipped_fit() -> Fit:
    """The fit that comes with the package."""
    return fit_from_json(json.loads(SHIPPED.read_text(encoding="utf-8")))


def _shipped_or_none() -> Fit | None:
    return shipped_fit() if SHIPPED.is_file() else None


def fit_as_json(fit: Fit) -> dict[str, Any]:
    """Everything but the rows, rounded to what the data can tell."""
    values = {name: value for name, value in asdict(replace(fit, known=None)).items() if name != "known"}
    return _rounded(values)


def fit_from_json(values: dict[str, Any]) -> Fit:
    """What `fit_as_json` wrote."""
    cells = tuple(Cell(Place(**cell["place"]), cell["residual"], cell["rows"]) for cell in values["cells"])
    return Fit(
        log_parameters=values["log_parameters"],
        cells=cells,
        spreads=Spreads(**values["spreads"]),
        row_log_sd=values["row_log_sd"],
        power=tuple(values["power"]),
        widen=values["widen"],
        carried=values["carried"],
        rows=values["rows"],
        systems=tuple(values["systems"]),
        exclude_gpus=tuple(values["exclude_gpus"]),
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else value
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
