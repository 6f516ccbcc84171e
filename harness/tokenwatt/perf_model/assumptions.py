"""What a prediction of one case rests on beside the model: what the row does not say, and what stands in for what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenwatt.perf_model.base_times import computed_dtype
from tokenwatt.perf_model.cell_effects import Place
from tokenwatt.perf_model.engine_model import GROUPS, group_place
from tokenwatt.perf_model.fit import Fit
from tokenwatt.perf_model.operations import Operation
from tokenwatt.perf_model.operator_time.collective_times import SCALE_OUT_LATENCY_S
from tokenwatt.perf_model.operator_time.resolution import ResolvedCurve
from tokenwatt.perf_model.operator_time.times import OperatorTimes
from tokenwatt.perf_model.plan import ENGINES, Plan
from tokenwatt.reference.facts import Fact
from tokenwatt.reference.systems import SystemSpec, load_system

_RENAMED = {
    "recurrence.decode": "linear_attention.decode",
    "recurrence.prefill": "linear_attention.prefill",
    "elementwise": "matmul",
    "send": "all_gather",
}
"""Operators whose curves time kinds of other names (`base_times`)."""
_ALWAYS_BF16 = ("recurrence.decode", "recurrence.prefill", "elementwise")


def assumptions_of(row: Mapping[Any, Any], plan: Plan, fit: Fit) -> list[str]:
    """One line for each; row: a valid one (`check_cases`)."""
    return [*taken_as(row, plan, fit), *_facts(load_system(plan.system), plan), *stand_ins(plan, fit)]


def taken_as(row: Mapping[Any, Any], plan: Plan, fit: Fit) -> list[str]:
    """What was taken for what a row leaves open."""
    return [*_not_said(row, plan), *_engine(row, plan, fit)]


def limits_missed(row: Mapping[Any, Any], tpot_s: float, ttft_s: float) -> list[str]:
    """Limits of a row that the predicted times, which are means, are over."""
    found = (("TPOT", row["tpot_limit_s"], tpot_s), ("TTFT", row["ttft_limit_s"], ttft_s))
    return [f"{name} is over its limit of {limit:g} s" for name, limit, seconds in found if seconds > limit]


def _not_said(row: Mapping[Any, Any], plan: Plan) -> list[str]:
    names = str(row["assumed"]).split()
    chosen = ("tp", "num_gpus") if "tp" in names else ()
    lines = [f"{name} is not said: {_plain(row[name])} is assumed" for name in names if name not in chosen]
    split = plan.parallelism
    way = f"attention tp {split.attention_tp}, dp {split.attention_dp}"
    way += f", experts tp {split.moe_tp}, ep {split.moe_ep}" if plan.shape.has_experts else ""
    best = f"how GPUs share the model is not said: the best way is taken, {split.gpus} for an instance, {way}"
    return [*lines, best] if "tp" in names else lines


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _engine(row: Mapping[Any, Any], plan: Plan, fit: Fit) -> list[str]:
    lines = []
    named = str(row["engine"])
    if not any(mark in named.casefold() for mark in ENGINES):
        lines.append(f"engine {named or 'is not said'}: {plan.engine} stands in")
    group = GROUPS[group_place(plan)]
    if group != plan.group:
        lines.append(f"nobody measured {plan.group}: overheads of {group}")
    if Place(group, plan.family, plan.system) not in {cell.place for cell in fit.cells}:
        lines.append(f"the fit holds no row of {plan.family} on {plan.system} as {group}")
    return lines


def _facts(spec: SystemSpec, plan: Plan) -> list[str]:
    """Facts that times come from and that are ranges."""
    facts: dict[str, Fact] = {"memory bandwidth": spec.hbm_bytes_per_s, "links": spec.nvlink_bytes_per_s}
    peaks = {dtype: spec.flop_per_s(dtype) for dtype in ("bfloat16", "fp8", "fp4") if spec.has_peak(dtype)}
    facts |= {f"peak in {dtype}": fact for dtype, fact in peaks.items()}
    facts["host code, in times of x86"] = spec.host_time_ratio
    crossing = []
    if plan.parallelism.gpus > spec.gpus_per_domain.value:
        facts["network between domains"] = spec.scale_out_bytes_per_s
        crossing = [
            f"{plan.parallelism.gpus} GPUs are more than a domain of {spec.gpus_per_domain.value:g}: collectives cross "
            f"the network at {spec.scale_out_bytes_per_s.value:.3g} byte/s, a hop {1e6 * SCALE_OUT_LATENCY_S:g} us"
        ]
    return crossing + [
        f"{spec.name}, {name}: between {fact.low:.3g} and {fact.high:.3g}{_unit(fact)}, {fact.value:.3g} is taken"
        for name, fact in facts.items()
        if fact.low < fact.high
    ]


def _unit(fact: Fact) -> str:
    return "" if fact.unit == "1" else f" {fact.unit}"


def stand_ins(plan: Plan, fit: Fit) -> list[str]:
    """Curves of the case's operations that were not measured as they are, each with what they were taken from."""
    times = OperatorTimes(plan.system, plan.engine, fit.exclude_gpus)
    operations = [*plan.decode_operations(), *plan.prefill_operations()]
    lines: dict[str, None] = {}
    for operation in operations:
        asked, found = _resolved(times, operation)
        if found.note:
            lines[f"curve of {asked}: {found.note}"] = None
    return list(lines)


def _resolved(times: OperatorTimes, operation: Operation) -> tuple[str, ResolvedCurve]:
    """What curve an operation asks for, and what answers."""
    name = _RENAMED.get(operation.kind, operation.kind)
    if operation.is_collective:
        return f"{name} among {operation.ranks} GPUs", times.collectives.resolve(name, operation.ranks)
    dtype = "bf16" if operation.kind in _ALWAYS_BF16 else computed_dtype(operation.dtype, times.system)
    return f"{name} in {dtype}", times.resolve(name, dtype)
