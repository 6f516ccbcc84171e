"""A power budget filled with one system: GPUs, tokens, joules and dollars, low, central and high."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tokenwatt.architecture import Architecture
from tokenwatt.economics.formulas import gpus_in_budget, joules_per_token, tokens_per_s_per_mw, usd_per_mtok
from tokenwatt.economics.reference_row import ReferenceRow
from tokenwatt.economics.scaling import SpeedMethod, board_power_w, describe, speed_ratio
from tokenwatt.errors import UserError
from tokenwatt.record import FleetEstimate
from tokenwatt.reference.facts import Fact, FactBook
from tokenwatt.reference.ranges import CASES, Range
from tokenwatt.reference.systems import Ownership, SystemSpec, load_system

QUANTITIES = (
    "output_tokens_per_s_per_gpu",
    "output_tokens_per_s_per_user",
    "gpu_power_w",
    "all_in_power_w_per_gpu",
    "gpus",
    "output_tokens_per_s",
    "output_tokens_per_s_per_mw",
    "gpu_joules_per_output_token",
    "all_in_joules_per_output_token",
    "usd_per_gpu_h",
    "usd_per_mtok",
)
"""Columns of FleetEstimate that have a range, in the order of a reader's questions."""


def estimate(
    reference: ReferenceRow,
    architecture: Architecture,
    systems: Sequence[str],
    power_budget_w: float,
    ownership: Ownership = "hyperscaler",
    facts: FactBook | None = None,
    speed: SpeedMethod = "fixed_overhead",
) -> list[FleetEstimate]:
    """Carry `reference` to each of `systems` and fill `power_budget_w` (all-in) with it: three rows a system.

    Ranges combine worst with worst; every quantity holds low <= central <= high. All GPUs are busy all the time.

    Raises:
        UserError: an unknown system, a budget that is not positive, or a Fact that is missing.
    """
    if not (math.isfinite(power_budget_w) and power_budget_w > 0):
        raise UserError(f"power_budget_w must be > 0, got {power_budget_w}")
    source = load_system(reference.system, facts)
    rows: list[FleetEstimate] = []
    for name in systems:
        target = load_system(name, facts)
        quantities = _quantities(reference, architecture, source, target, power_budget_w, ownership, speed)
        cited = tuple(fact.cite() for fact in _system_facts(reference, source, target, ownership))
        rows += [
            FleetEstimate(
                system=target.name,
                case=case,
                power_budget_w=power_budget_w,
                model=reference.model,
                dtype=reference.dtype,
                reference_row=reference.row_id,
                reference_system=reference.system,
                concurrency=reference.concurrency,
                method=describe(speed),
                sources=(reference.source, *cited),
                **{quantity: quantities[quantity].at(case) for quantity in QUANTITIES},
            )
            for case in CASES
        ]
    return rows


def facts_used(
    reference: ReferenceRow, systems: Sequence[str], ownership: Ownership, facts: FactBook | None = None
) -> list[Fact]:
    """Every Fact that `estimate` rests on, once, in the order of `systems`."""
    source = load_system(reference.system, facts)
    targets = [load_system(name, facts) for name in systems]
    used = [fact for target in targets for fact in _system_facts(reference, source, target, ownership)]
    return list({(fact.subject, fact.name): fact for fact in used}.values())


def _quantities(
    reference: ReferenceRow,
    architecture: Architecture,
    source: SystemSpec,
    target: SystemSpec,
    power_budget_w: float,
    ownership: Ownership,
    speed: SpeedMethod,
) -> dict[str, Range]:
    ratio = speed_ratio(reference, architecture, source, target, speed)
    tokens_per_s = Range.exact(reference.output_tokens_per_s_per_gpu) * ratio
    power_w = board_power_w(reference, source, target)
    all_in_w = target.all_in_power_w_per_gpu.range
    usd_per_gpu_h = target.usd_per_gpu_h(ownership).range
    gpus = gpus_in_budget(power_budget_w, all_in_w)
    return {
        "output_tokens_per_s_per_gpu": tokens_per_s,
        "output_tokens_per_s_per_user": Range.exact(1 / reference.tpot_s) * ratio,
        "gpu_power_w": power_w,
        "all_in_power_w_per_gpu": all_in_w,
        "gpus": gpus,
        "output_tokens_per_s": gpus * tokens_per_s,
        "output_tokens_per_s_per_mw": tokens_per_s_per_mw(tokens_per_s, all_in_w),
        "gpu_joules_per_output_token": joules_per_token(power_w, tokens_per_s),
        "all_in_joules_per_output_token": joules_per_token(all_in_w, tokens_per_s),
        "usd_per_gpu_h": usd_per_gpu_h,
        "usd_per_mtok": usd_per_mtok(usd_per_gpu_h, tokens_per_s),
    }


def _system_facts(reference: ReferenceRow, source: SystemSpec, target: SystemSpec, ownership: Ownership) -> list[Fact]:
    scaled = [
        fact
        for spec in (source, target)
        for fact in (spec.hbm_bytes_per_s, spec.flop_per_s(reference.dtype), spec.tdp_w)
        if source.name != target.name
    ]
    return [*scaled, target.all_in_power_w_per_gpu, target.usd_per_gpu_h(ownership)]
