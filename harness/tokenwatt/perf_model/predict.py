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

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tokenwatt.perf_model.assumptions import limits_missed, taken_as
from tokenwatt.perf_model.base_times import base_times
from tokenwatt.perf_model.cell_effects import expected
from tokenwatt.perf_model.choices import chosen_plans
from tokenwatt.perf_model.engine_model import Served, loop_of, multipliers, of_groups, served
from tokenwatt.perf_model.fit import Fit, Planned, central, planned
from tokenwatt.perf_model.measured_rows import measured_answers
from tokenwatt.perf_model.operation_kinds import DECODE, PREFILL
from tokenwatt.perf_model.operator_time.times import OperatorTimes
from tokenwatt.perf_model.operator_time.trend import GENERATIONS
from tokenwatt.perf_model.plan import Plan
from tokenwatt.perf_model.predictions import ENDS, QUANTITIES, REFUSED, Z80, empty_answers
from tokenwatt.reference.facts import Fact
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
    answers = _with_joules(answers, measured)
    if plans:
        answers.loc[index, "assumptions"] = _assumptions(cases.loc[index], answers.loc[index], plans, fit)
    return answers


def _with_joules(answers: pd.DataFrame, measured: dict[str, pd.Series]) -> pd.DataFrame:
    """Joules of rows whose speed or power was measured and whose joules were not: W over tokens/s."""
    watts, speed, joules = (
        f"predicted_{name}" for name in ("gpu_power_w", "output_tokens_per_s_per_gpu", "joules_per_output_token")
    )
    given = [measured[name].index for name in (watts, speed) if name in measured]
    known = measured[joules].index if joules in measured else answers.index[:0]
    for index in given:
        rows = index.difference(known)
        ratio = answers.loc[rows, watts] / answers.loc[rows, speed] / answers.loc[rows, joules]
        for end in ENDS:
            answers.loc[rows, f"{joules}{end}"] = answers.loc[rows, f"{joules}{end}"] * ratio
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


def _assumptions(cases: pd.DataFrame, answers: pd.DataFrame, plans: Sequence[Plan], fit: Fit) -> list[str]:
    times = zip(answers["predicted_tpot_s"], answers["predicted_ttft_s"], strict=True)
    return [
        "; ".join([*taken_as(row, plan, fit), *limits_missed(row, *of_row)])
        for row, plan, of_row in zip(cases.to_dict("records"), plans, times, strict=True)
    ]


def log_spreads(fit: Fit, cases: Planned) -> dict[str, Floats]:
    """Standard deviation of the logarithm of each quantity, of each case."""
    mean, of_cell = expected(cases.places, fit.cells, fit.spreads)
    now = served(fit.vector, cases.loop, mean)
    carried, facts = _carried_variance(fit, cases, now, np.exp(mean)), _fact_variance(fit, cases, mean)
    spreads = {}
    for name in QUANTITIES:
        # Board power moves little with time: a slower step draws less for longer.
        of_time = 0.0 if name == "gpu_power_w" else 1.0
        widen = np.array([fit.widened(name, plan.setting) for plan in cases.plans])
        seen = widen**2 * (of_time * of_cell + fit.row_log_sd[name] ** 2)
        spreads[name] = np.sqrt(seen + of_time * fit.carried**2 * carried[name] + facts[name])
    return spreads


def _carried_variance(fit: Fit, cases: Planned, now: Served, factor: Floats) -> dict[str, Floats]:
    """Of curves that come from other systems, in the log of times: kinds err apart, operations of one kind together.

    factor: what the times of each case are multiplied by.
    """
    base, loop = cases.base, cases.loop
    if not base.from_specs.any():
        return dict.fromkeys(QUANTITIES, np.zeros(base.cases))
    off = base.by_term(np.where(base.from_specs, base.seconds * _entry_multipliers(fit, cases) * base.log_sd, 0.0))
    prefill = of_groups(fit.vector, "prefill")[loop.group]
    in_step = off[:, DECODE] * (loop.stages * factor)[:, None]
    in_prompt = off[:, PREFILL] * (loop.share_of_chunk * prefill * factor)[:, None]
    prompts = np.where(loop.has_pools | loop.is_gap, 0.0, loop.batch * loop.accepted / loop.osl)
    mixed = now.decode_s + prompts * now.prompt_s
    of_token = (((in_step + prompts[:, None] * in_prompt) / mixed[:, None]) ** 2).sum(axis=1)
    # A prompt that the host hides wholly takes no time that could be off.
    hidden = np.where(now.prompt_s > 0, now.prompt_s, np.inf)
    of_first = ((in_prompt / hidden[:, None]) ** 2).sum(axis=1)
    return dict.fromkeys(QUANTITIES, of_token) | {"ttft_s": of_first}


def _entry_multipliers(fit: Fit, cases: Planned) -> Floats:
    """What the time of each operation is multiplied by."""
    return multipliers(fit.vector)[cases.loop.group[cases.base.case], cases.base.term]


def _fact_variance(fit: Fit, cases: Planned, mean: Floats) -> dict[str, Floats]:
    """Of the Facts of a system: half the distance of a quantity's logarithm between both ends of the ranges that times
    depend on is 80 % of one side; so is that of the board's limit, which power is a share of."""
    variance = {name: np.zeros(len(cases.plans)) for name in QUANTITIES}
    uncertain = [place for place, plan in enumerate(cases.plans) if _has_ranges(plan.system)]
    if not uncertain:
        return variance
    plans = [cases.plans[place] for place in uncertain]
    ends = [_at_end(fit, plans, end, mean[uncertain]) for end in ("low", "high")]
    limit = np.array([_half_log_range(load_system(plan.system).tdp_w) ** 2 for plan in plans])
    for name in QUANTITIES:
        of_limit = limit if name in ("gpu_power_w", "joules_per_output_token") else 0.0
        variance[name][uncertain] = (np.log(ends[0][name] / ends[1][name]) / (2 * Z80)) ** 2 + of_limit
    return variance


def _at_end(fit: Fit, plans: list[Plan], end: Case, mean: Floats) -> dict[str, Floats]:
    base = base_times(plans, fit.exclude_gpus, end)
    loop = loop_of(plans, base, end)
    return central(fit, Planned(plans, base, loop), served(fit.vector, loop, mean))


def _half_log_range(fact: Fact) -> float:
    return math.log(fact.high / fact.low) / (2 * Z80)


def _has_ranges(system: str) -> bool:
    spec = load_system(system)
    facts = [spec.hbm_bytes_per_s, spec.nvlink_bytes_per_s, spec.host_time_ratio, spec.tdp_w]
    facts += [spec.flop_per_s(dtype) for dtype in ("bfloat16", "fp8", "fp4") if spec.has_peak(dtype)]
    return any(fact.low < fact.high for fact in facts)
