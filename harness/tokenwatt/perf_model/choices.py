"""What a case leaves open: how its GPUs share the model, and how many sequences limits on TPOT and TTFT allow.

Offline and under a limit whoever publishes a number has looked for the best way; so is it here. Ways: tensor parallel
over t GPUs, and for mixtures attention data parallel with experts spread, t = 1, 2, 4 ... GPUs, as many instances as
there are GPUs for. An instance leaves the domain of its links only where the model fits no smaller one. Batches: what
fits, times powers of the root of two below it, and sixteenths of an octave above the one that does best. The way with
the most tokens/s per GPU whose TPOT and TTFT are within the limits is taken; where none is, the one with the shortest
TPOT.

MLPerf's limits (`server`, `interactive`) hold for the 99th percentile of requests that arrive at random. In flight are
then a Poisson number of them; TPOT is the mean over a request's own time in flight, which two thirds of the variance
outlast. So the limits are kept with n + 2.33 (2/3 n)^(1/2) in flight in an instance, for a mean of n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tokenwatt.errors import UserError
from tokenwatt.perf_model.cases import LIMITED
from tokenwatt.perf_model.engine_model import Served
from tokenwatt.perf_model.fit import Fit, at_expected, planned
from tokenwatt.perf_model.plan import Plan, is_batch_open, is_split_open, plan_case
from tokenwatt.perf_model.shape_library import model_shape
from tokenwatt.reference.systems import load_system

BATCHES = 24
"""Steps of the root of two from what fits down to a four thousandth of it."""
LARGEST_INSTANCE = 8
OCTAVE = 16
"""Steps of an octave that a batch is looked for in."""
P99 = NormalDist().inv_cdf(0.99)
ROUNDS = 4
"""Of a secant: two batches, and twice where their line says."""


def chosen_plans(cases: pd.DataFrame, fit: Fit) -> tuple[list[Plan], pd.Index, dict[Any, str]]:
    """A plan for each valid case that has one, their index, and by index why each of the others has none."""
    ways: list[list[Plan]] = []
    rows: list[dict[Any, Any]] = []
    index: list[int] = []
    refused: dict[Any, str] = {}
    for place, row in enumerate(cases.to_dict("records")):
        try:
            ways.append(candidates(row))
        except UserError as error:
            refused[cases.index[place]] = str(error)
            continue
        rows.append(row)
        index.append(place)
    limits = [(row["tpot_limit_s"], row["ttft_limit_s"]) for row in rows]
    plans = _best(ways, limits, fit)
    plans = _best([_finer(*each) for each in zip(rows, plans, ways, strict=True)], limits, fit)
    plans = [_arriving(*each) for each in zip(rows, plans, ways, strict=True)]
    return settled(plans, fit), cases.index[index], refused


def _best(ways: Sequence[Sequence[Plan]], limits_s: Sequence[tuple[float, float]], fit: Fit) -> list[Plan]:
    """One plan of each case."""
    if all(len(each) == 1 for each in ways):
        return [each[0] for each in ways]
    plans = [plan for each in ways for plan in each]
    owners = np.repeat(np.arange(len(ways)), [len(each) for each in ways])
    now = at_expected(fit, planned(plans, fit.exclude_gpus))
    return [plans[place] for place in best_of(plans, np.array(limits_s)[owners], now, owners)]


def _finer(row: Mapping[Any, Any], plan: Plan, ways: Sequence[Plan]) -> list[Plan]:
    """Plans between the best of the ways and the next larger batch; the best itself where no limit decides."""
    if not is_batch_open(row):
        return [plan]
    batches = [plan.batch * 2 ** (step / OCTAVE) for step in range(OCTAVE // 2)]
    return [with_batch(plan, batch) for batch in batches if batch <= _most(plan, ways)]


def _arriving(row: Mapping[Any, Any], plan: Plan, ways: Sequence[Plan]) -> Plan:
    """The plan as it runs on average; where no limit kept the batch below what fits, requests queue for their turn."""
    is_limited = is_batch_open(row) and row["scenario"] in LIMITED and plan.batch < _most(plan, ways)
    return at_mean(plan) if is_limited else plan


def _most(plan: Plan, ways: Sequence[Plan]) -> float:
    """The largest batch of any plan that is split like this one."""
    return max(each.batch for each in ways if each.parallelism == plan.parallelism)


def at_mean(plan: Plan) -> Plan:
    """The plan with as many sequences as are in flight on average where those of `plan` are the 99th percentile of what
    requests meet."""
    ranks = plan.parallelism.attention_dp
    spread = P99 * math.sqrt(2 / 3)
    root = (math.sqrt(spread**2 + 4 * plan.batch * ranks) - spread) / 2
    return with_batch(plan, root**2 / ranks)


def settled(plans: list[Plan], fit: Fit) -> list[Plan]:
    """Plans with pools as their steady state has them: what waits for the prefill pool does not decode.

    By Little's law requests/s x the time from first to last token decode at once; the step that this time is made of is
    that of so many sequences.
    """
    places = [place for place, plan in enumerate(plans) if plan.prefill is not None]
    plans = list(plans)
    before: dict[int, tuple[float, float]] = {}
    for _ in range(ROUNDS if places else 0):
        pools = [plans[place] for place in places]
        now = at_expected(fit, planned(pools, fit.exclude_gpus))
        for place, plan, speed, tpot in zip(places, pools, now.tokens_per_s_per_gpu, now.tpot_s, strict=True):
            ranks = plan.decode_workers * plan.parallelism.attention_dp
            decoding = float(speed) * plan.gpus * float(tpot) / ranks
            wanted = _where_equal(before.get(place), (plan.batch, decoding))
            before[place] = (plan.batch, decoding)
            plans[place] = replace(plan, batch=max(min(wanted, plan.fits), min(plan.fits, 1.0)))
    return plans


def _where_equal(before: tuple[float, float] | None, now: tuple[float, float]) -> float:
    """Where the line through two points (x, y) meets y = x; y of the second where there is one, or no such place."""
    if before is None or before[0] == now[0]:
        return now[1]
    slope = (now[1] - before[1]) / (now[0] - before[0])
    found = (now[1] - slope * now[0]) / (1 - slope) if slope < 1 else now[1]
    return found if found > 0 else now[1]


def candidates(row: Mapping[Any, Any]) -> list[Plan]:
    """Plans of a valid row: one, or all ways that it leaves open.

    Raises:
        UserError: a row that has no plan; of several ways the reason of the last.
    """
    plans: list[Plan] = []
    reason = None
    for group in _ways(row):
        for way in group:
            try:
                plans.append(plan_case({**row, **way}))
            except UserError as error:
                reason = error
        if plans:
            break
    if not plans and reason is not None:
        raise reason
    if not is_batch_open(row):
        return plans
    return [with_batch(plan, plan.batch * 2 ** (-step / 2)) for plan in plans for step in range(BATCHES)]


def with_batch(plan: Plan, batch: float) -> Plan:
    """The same with fewer sequences, one at least."""
    batch = max(batch, 1.0)
    chunk = plan.isl * max(min(plan.chunk / plan.isl, math.floor(batch)), 1.0)
    return replace(plan, batch=batch, waits=batch, concurrency=batch * plan.parallelism.attention_dp, chunk=chunk)


def best_of(plans: Sequence[Plan], limits_s: NDArray[np.float64], now: Served, owners: NDArray[np.int64]) -> list[int]:
    """Place of the plan that each owner takes, owners in ascending order; limits_s: of TPOT and TTFT, NaN for none."""
    chosen = []
    for owner in np.unique(owners):
        places = np.flatnonzero(owners == owner)
        over = (now.tpot_s[places] > limits_s[places, 0]) | (now.ttft_s[places] > limits_s[places, 1])
        within = places[~over]
        best = within[now.tokens_per_s_per_gpu[within].argmax()] if len(within) else places[now.tpot_s[places].argmin()]
        chosen.append(int(best))
    return chosen


def _ways(row: Mapping[Any, Any]) -> list[list[dict[str, Any]]]:
    """Ways that a row leaves open: those within a domain, then those of each larger size."""
    if not is_split_open(row):
        return [[{}]]
    said = "num_gpus" not in row["assumed"].split()
    domain = int(load_system(row["system"]).gpus_per_domain.value)
    gpus = int(row["num_gpus"]) if said else min(domain, LARGEST_INSTANCE)
    shape = model_shape(row["model"])
    groups: list[list[dict[str, Any]]] = [[]]
    for each in (2**power for power in range(int(math.log2(gpus)) + 1)):
        if gpus % each:
            continue
        if each > domain:
            groups.append([])
        ways = groups[-1]
        number = {"num_gpus": gpus if said else each, "pp": 1}
        ways.append(number | {"attention_tp": each, "attention_dp": 1, "moe_tp": each, "moe_ep": 1})
        if each > 1 and shape.has_experts:
            ways.append(number | {"attention_tp": 1, "attention_dp": each, "moe_tp": 1, "moe_ep": each})
    return groups
