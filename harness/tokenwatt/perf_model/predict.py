"""Cases in, predictions out: five quantities with 80 % intervals, and how each was found.

`measured`  rows that the fit was made from are called the same: their values.
`silicon`   operator tables exist for the GPU.
`specs`     data sheet alone: its curves come from other generations, and its Facts have ranges.

Spread of log time of a case, as variances: what its cell may be off by, given the cells that are known; a row within
its cell; for `specs` what carried-over curves are off by, each kind of operation by its share of the step, and half of
the distance between both ends of the Facts. Power and energy have the spread that rows of known power showed, and that
of time. Calibration on unseen rows says what the first two are multiplied by (`Fit.widen`), and the third
(`Fit.carried`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tokenwatt.perf_model.base_times import base_times
from tokenwatt.perf_model.cell_effects import expected
from tokenwatt.perf_model.choices import chosen_plans
from tokenwatt.perf_model.engine_model import Served, loop_of, multipliers, served
from tokenwatt.perf_model.fit import Fit, Planned, at_expected, central, planned
from tokenwatt.perf_model.measured_rows import measured_answers
from tokenwatt.perf_model.operation_kinds import DECODE
from tokenwatt.perf_model.operator_time.times import OperatorTimes
from tokenwatt.perf_model.operator_time.trend import GENERATIONS
from tokenwatt.perf_model.plan import Plan
from tokenwatt.perf_model.predictions import QUANTITIES, REFUSED, Z80, empty_answers
from tokenwatt.reference.ranges import Case
from tokenwatt.reference.systems import load_system

Floats = NDArray[np.float64]


def predict_cases(cases: pd.DataFrame, fit: Fit) -> pd.DataFrame:
    """Predict valid cases (`check_cases`).

    Returns:
        A frame of the same index with the columns `predictions.ANSWERED`; a case that cannot be planned is refused
        with the reason.
    """
    answers = empty_answers(cases.index)
    plans, index, refused = chosen_plans(cases, fit)
    if plans:
        answers.loc[index, answers.columns[: 3 * len(QUANTITIES)]] = _numbers(plans, fit)
        answers.loc[index, "method"] = _methods(plans, fit)
    for case, reason in refused.items():
        answers.loc[case, ["status", "reason"]] = [REFUSED, reason]
    measured = measured_answers(cases, fit)
    for name, column in measured.items():
        answers.loc[column.index, name] = column
    return answers


def predict_from_specs(cases: pd.DataFrame, fit: Fit) -> pd.DataFrame:
    """As `predict_cases`, with the operator tables of each case's whole generation taken away."""
    return pd.concat([predict_cases(part, without) for part, without in by_generation(cases, fit)]).loc[cases.index]


def by_generation(cases: pd.DataFrame, fit: Fit) -> list[tuple[pd.DataFrame, Fit]]:
    """Cases of each generation, with the fit that must not use the operator tables of any of its systems."""
    generations = pd.Series([GENERATIONS.get(system, system) for system in cases["system"]], index=cases.index)
    parts = []
    for generation, part in cases.groupby(generations, sort=False):
        without = tuple(sorted(system for system, other in GENERATIONS.items() if other == generation))
        parts.append((part, replace(fit, exclude_gpus=without)))
    return parts


def _numbers(plans: list[Plan], fit: Fit) -> Floats:
    """Central value, low and high end of every quantity, in the order of the columns; (cases, 3 x quantities)."""
    cases = planned(plans, fit.exclude_gpus)
    found, spread = central(fit, cases), log_spreads(fit, cases)
    columns = []
    for name in QUANTITIES:
        reach = np.exp(Z80 * spread[name])
        low, high = found[name] / reach, found[name] * reach
        if name == "gpu_power_w":
            limit = np.array([load_system(plan.system).tdp_w.range.high for plan in plans])
            high = np.maximum(np.minimum(high, limit), found[name])
        columns += [found[name], low, high]
    return np.stack(columns, axis=1)


def _methods(plans: Sequence[Plan], fit: Fit) -> list[str]:
    return [OperatorTimes(plan.system, plan.engine, fit.exclude_gpus).method for plan in plans]


def log_spreads(fit: Fit, cases: Planned) -> dict[str, Floats]:
    """Standard deviation of the logarithm of each quantity, of each case."""
    _, of_cell = expected(cases.places, fit.cells, fit.spreads)
    now = at_expected(fit, cases)
    carried = fit.carried**2 * _carried_variance(fit, cases, now) + _fact_variance(fit, cases)
    spreads = {}
    for name in QUANTITIES:
        # Board power moves little with time: a slower step draws less for longer.
        of_time = 0.0 if name == "gpu_power_w" else 1.0
        widen = np.array([fit.widened(name, plan.setting) for plan in cases.plans])
        seen = widen**2 * (of_time * of_cell + fit.row_log_sd[name] ** 2)
        spreads[name] = np.sqrt(seen + of_time * carried)
    return spreads


def _carried_variance(fit: Fit, cases: Planned, now: Served) -> Floats:
    """Of curves that come from other systems: kinds err apart, operations of one kind together."""
    base = cases.base
    if not base.from_specs.any():
        return np.zeros(base.cases)
    weighted = base.seconds * _entry_multipliers(fit, cases)
    decoding = (base.phase == DECODE) & base.from_specs
    off = base.by_term(np.where(decoding, weighted * base.log_sd, 0.0))[:, DECODE]
    return ((off / now.decode_s[:, None]) ** 2).sum(axis=1)


def _entry_multipliers(fit: Fit, cases: Planned) -> Floats:
    """What the time of each operation is multiplied by."""
    return multipliers(fit.vector)[cases.loop.group[cases.base.case], cases.base.term]


def _fact_variance(fit: Fit, cases: Planned) -> Floats:
    """Of the Facts of a system: half the distance of log time between both ends of their ranges is 80 % of one side."""
    uncertain = [place for place, plan in enumerate(cases.plans) if _has_ranges(plan.system)]
    variance = np.zeros(len(cases.plans))
    if not uncertain:
        return variance
    plans = [cases.plans[place] for place in uncertain]
    ends = [_decode_at(fit, plans, end) for end in ("low", "high")]
    variance[uncertain] = (np.log(ends[0] / ends[1]) / (2 * Z80)) ** 2
    return variance


def _decode_at(fit: Fit, plans: list[Plan], end: Case) -> Floats:
    return served(fit.vector, loop_of(plans, base_times(plans, fit.exclude_gpus, end), end)).decode_s


def _has_ranges(system: str) -> bool:
    spec = load_system(system)
    facts = [spec.hbm_bytes_per_s, spec.nvlink_bytes_per_s, spec.host_time_ratio]
    facts += [spec.flop_per_s(dtype) for dtype in ("bfloat16", "fp8", "fp4") if spec.has_peak(dtype)]
    return any(fact.low < fact.high for fact in facts)
