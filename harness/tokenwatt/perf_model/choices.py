"""What a case leaves open: how its GPUs share the model, and how many sequences limits on TPOT and TTFT allow.

Offline and under a limit whoever publishes a number has looked for the best way; so is it here. Ways: tensor parallel
over t GPUs, and for mixtures attention data parallel with experts spread, t = 1, 2, 4 ... GPUs, as many instances as
there are GPUs for. An instance leaves the domain of its links only where the model fits no smaller one. Under limits
each way runs the most sequences that keep them, one at least. The way with the most tokens/s per GPU whose TPOT and
TTFT are within the limits is taken; where none is, the one with the shortest TPOT.

MLPerf's limits (`server`, `interactive`) hold for the 99th percentile of requests that arrive at random. In flight are
then a Poisson number of them; TPOT is the mean over a request's own time in flight, which two thirds of the variance
outlast. So the limits are kept, and memory holds, n + 2.33 (2/3 n)^(1/2) in flight in an instance, for a mean of n; one
at least.
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

Floats = NDArray[np.float64]

LARGEST_INSTANCE = 8
HALVINGS = 9
"""Of the octaves between one sequence and what fits: the batch is found to 2 %."""
P99 = NormalDist().inv_cdf(0.99)
ROUNDS = 4
"""Of a secant: two batches, and twice where their line says."""


def chosen_plans(cases: pd.DataFrame, fit: Fit) -> tuple[list[Plan], pd.Index, dict[Any, str]]:
    """A plan for each valid case that has one, their index, and by index why each of the others has none."""
    plans: list[Plan] = []
    rows: list[dict[Any, Any]] = []
    owners: list[int] = []
    refused: dict[Any, str] = {}
    for place, row in enumerate(cases.to_dict("records")):
        try:
            ways = candidates(row)
        except UserError as error:
            refused[cases.index[place]] = str(error)
            continue
        plans += ways
        rows += [row] * len(ways)
        owners += [place] * len(ways)
    limits = np.array([(row["tpot_limit_s"], row["ttft_limit_s"]) for row in rows])
    plans = settled(_within(plans, rows, limits, fit), fit)
    if len(set(owners)) < len(owners):
        now = at_expected(fit, planned(plans, fit.exclude_gpus))
        plans = [plans[place] for place in best_of(limits, now, np.array(owners))]
    return plans, cases.index[sorted(set(owners))], refused


def _within(plans: list[Plan], rows: Sequence[Mapping[Any, Any]], limits_s: Floats, fit: Fit) -> list[Plan]:
    """Plans with as many sequences, of what fits, as keep the limits where those decide; one at least."""
    plans = list(plans)
    is_free = [is_batch_open(row) for row in rows]
    places = np.flatnonzero(is_free)
    places = places[_over([plans[place] for place in places], limits_s[places], fit)]
    low, high = np.ones(len(places)), np.array([plans[place].batch for place in places])
    for _ in range(HALVINGS if len(places) else 0):
        middle = np.sqrt(low * high)
        tried = [with_batch(plans[place], batch) for place, batch in zip(places, middle, strict=True)]
        over = _over(tried, limits_s[places], fit)
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    for place, batch in zip(places, low, strict=True):
        plans[place] = with_batch(plans[place], batch)
    arrive = [free and row["scenario"] in LIMITED for free, row in zip(is_free, rows, strict=True)]
    return [at_mean(plan) if is_random else plan for plan, is_random in zip(plans, arrive, strict=True)]


def _over(plans: Sequence[Plan], limits_s: Floats, fit: Fit) -> NDArray[np.bool_]:
    """Whether TPOT or TTFT of each plan is over its limit."""
    if not plans:
        return np.zeros(0, dtype=np.bool_)
    return is_over(at_expected(fit, planned(settled(list(plans), fit), fit.exclude_gpus)), limits_s)


def is_over(now: Served, limits_s: Floats) -> NDArray[np.bool_]:
    """limits_s: of TPOT and TTFT, NaN for none; (cases, 2)."""
    return (now.tpot_s > limits_s[:, 0]) | (now.ttft_s > limits_s[:, 1])


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
    return plans


def with_batch(plan: Plan, batch: float) -> Plan:
    """The same with fewer sequences, one at least."""
    batch = max(batch, 1.0)
    chunk = plan.isl * max(min(plan.chunk / plan.isl, math.floor(batch)), 1.0)
    return replace(plan, batch=batch, waits=batch, concurrency=batch * plan.parallelism.attention_dp, chunk=chunk)


def best_of(limits_s: Floats, now: Served, owners: NDArray[np.int64]) -> list[int]:
    """Place of the plan that each owner takes, owners in ascending order."""
    within = ~is_over(now, limits_s)
    chosen = []
    for owner in np.unique(owners):
        places = np.flatnonzero(owners == owner)
        allowed = places[within[places]]
        best = (
            allowed[now.tokens_per_s_per_gpu[allowed].argmax()] if len(allowed) else places[now.tpot_s[places].argmin()]
        )
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
