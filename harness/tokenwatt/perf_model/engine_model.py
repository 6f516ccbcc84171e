"""From times of operations to a served token: what an engine adds, and the steady state of its loop.

One step of a rank on the GPU, and what the host spends beside it:

    gpu  = sum over operations of multiplier x time by the curves + launch x (operations that no curve times)
    host = fixed + per_sequence x running sequences
    step = (gpu^p + host^p)^(1/p)            p = 1: one after the other; large: the longer hides the shorter

No step is shorter than its bytes take at the bandwidth of the data sheet.

In a closed loop each of B sequences brings one prompt for each osl tokens: r = B x accepted / osl prompts a step. The
share s = min(r x ranks that share experts, 1) of the steps holds prompts, of a run that ends no more than `taking_in`.
Such a step computes `prefill` x the times of a prefill step by the curves beside its decoding, and is no recorded
graph: the host launches every layer's kernels, `eager` for each.

    with prompts = (gpu of decode + r / s x gpu of a prompt) beside (host + eager x layers)
    prompt = s x (step with prompts - step) / r           what one prompt adds to the steps of its rank

    mixed = decode step + r x prompt                           tokens/s of a rank = B x accepted / mixed offline

    TTFT = a x prompt x (1 + g x (requests of the rank - 1)) + b x decode step + c + wait of those that do not fit

    tokens/s = requests in flight x osl / (TTFT + mixed / accepted x (osl - 1))       in a closed loop; offline at most

where g is what prompts that arrive together wait for one another: published runs start all at once. Two pools: prompts
are computed elsewhere, so a token takes the decode step, and requests/s are those of the slower pool. Host times are
those of x86 processors, and are multiplied by the system's `host_time_ratio`.

Parameters are logarithms with normal priors. Multipliers start from 1, the curves. How far each is let go was chosen by
trying: wide enough for Hopper rows, and so narrow that Blackwell rows, which no parameter is fitted on, did not suffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tokenwatt.perf_model.base_times import BaseTimes
from tokenwatt.perf_model.operation_kinds import DECODE, FORMATS, PREFILL, TERMS
from tokenwatt.perf_model.plan import Plan
from tokenwatt.reference.ranges import Case
from tokenwatt.reference.systems import load_system

Floats = NDArray[np.float64]

GROUPS = ("vllm", "sglang", "trtllm", "native", "vllm mlenergy", "trtllm offline")
"""Engines as sources run them: `Plan.group`."""
_HOST_END: dict[Case, Case] = {"low": "high", "central": "central", "high": "low"}
"""The end of a time that goes with an end of speeds."""
_FAMILIES = ("matmul", "experts", "attention", "reduce")


@dataclass(frozen=True, slots=True)
class Prior:
    """Where a parameter is before anything is fitted: median, and standard deviation of its logarithm."""

    name: str
    median: float
    log_sd: float


@cache
def priors() -> tuple[Prior, ...]:
    """Every parameter. `term:NAME` multiplies one kind of kernel for all engines, `FAMILY:GROUP` several for one."""
    shared = [Prior(f"term:{term}", 1.0, 0.05) for term in TERMS if term != "elementwise"]
    own = [
        Prior(f"{family}:{group}", 1.0, 0.15 if family == "experts" else 0.05)
        for family in _FAMILIES
        for group in GROUPS
    ]
    formats = [Prior(f"experts.{kind}:{group}", 1.0, 0.25) for kind in FORMATS for group in GROUPS]
    overheads = [
        Prior(f"{name}:{group}", median, log_sd)
        for name, median, log_sd in (
            ("launch_s", 3e-6, 0.5),
            ("host_s", 1e-3, 0.5),
            ("per_sequence_s", 2e-5, 0.2),
            ("eager_s", 4e-4, 0.5),
            ("prefill", 1.0, 0.1),
            ("overlap", 1.0, 0.7),
        )
        for group in GROUPS
    ]
    first_token = [
        Prior(f"{name}:{group}", median, log_sd)
        for name, median, log_sd in (
            ("ttft_prompt", 1.3, 0.3),
            ("ttft_crowd", 0.06, 0.5),
            ("ttft_steps", 2.0, 1.0),
            ("ttft_s", 0.015, 0.7),
        )
        for group in GROUPS
    ]
    return tuple(shared + own + formats + overheads + first_token)


@cache
def _places() -> dict[str, int]:
    return {prior.name: place for place, prior in enumerate(priors())}


@cache
def _term_places() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """For multipliers of (group, term): place of the shared one, of the family's and of the format's, -1 for none."""
    shape = (len(GROUPS), len(TERMS))
    shared, own, formats = (np.full(shape, -1) for _ in range(3))
    family_of = {"attention.decode": "attention", "latent.decode": "attention", "reduce": "reduce"}
    for column, term in enumerate(TERMS):
        family = term.split(".")[0] if term.startswith(("matmul", "experts")) else family_of.get(term)
        for row, group in enumerate(GROUPS):
            shared[row, column] = _places().get(f"term:{term}", -1)
            own[row, column] = _places().get(f"{family}:{group}", -1)
            formats[row, column] = _places().get(f"{term}:{group}", -1) if family == "experts" else -1
    return shared, own, formats


def multipliers(log_parameters: Floats) -> Floats:
    """Of every group and term; shape (groups, terms)."""
    padded = np.append(log_parameters, 0.0)
    shared, own, formats = _term_places()
    return np.exp(padded[shared] + padded[own] + padded[formats])


def of_groups(log_parameters: Floats, name: str) -> Floats:
    """One parameter of every group."""
    return np.exp(log_parameters[[_places()[f"{name}:{group}"] for group in GROUPS]])


def group_place(plan: Plan) -> int:
    """Place of a plan's group; that of its engine where nobody measured the engine as this source runs it."""
    return GROUPS.index(plan.group if plan.group in GROUPS else plan.engine)


@dataclass(frozen=True, slots=True)
class Loop:
    """What the steady state of each case needs; every array has one entry for each case but `seconds`, `launches`."""

    seconds: Floats
    """By the curves, of both phases and all terms; (cases, 2, terms)."""
    launches: Floats
    """(cases, 2)."""
    least_s: Floats
    """What the bytes of a decode step take at the full bandwidth of the memory."""
    group: NDArray[np.int64]
    batch: Floats
    fits: Floats
    """Sequences at most, for one attention rank."""
    waits: Floats
    isl: Floats
    osl: Floats
    share_of_chunk: Floats
    """Of a prefill step, that a prompt is."""
    taking_in: Floats
    """Largest share of the steps that may hold prompts."""
    ranks: Floats
    """Attention ranks of one instance."""
    coupled: Floats
    """Those of them that wait for each other's prompts: all that share experts; ranks of a dense model are apart."""
    stages: Floats
    layers: Floats
    """Of one stage."""
    host_ratio: Floats
    """What host code takes over what it takes on x86 processors."""
    gpus: Floats
    concurrency: Floats
    accepted: Floats
    is_gap: NDArray[np.bool_]
    """Whether TPOT is a gap that no prompt interrupts."""
    is_offline: NDArray[np.bool_]
    has_pools: NDArray[np.bool_]
    prefill_workers: Floats
    decode_workers: Floats


def loop_of(plans: Sequence[Plan], base: BaseTimes, end: Case = "central") -> Loop:
    """Arrays of plans and their times; end: of the ranges of what is known of hosts, `low` for slow ones."""

    def each(name: str) -> Floats:
        return np.array([getattr(plan, name) for plan in plans], dtype=np.float64)

    bandwidth = np.array([load_system(plan.system).hbm_bytes_per_s.range.at(end) for plan in plans])
    return Loop(
        seconds=base.by_term(base.seconds),
        launches=base.by_phase(base.launches),
        least_s=base.streamed()[:, DECODE] / bandwidth,
        group=np.array([group_place(plan) for plan in plans]),
        batch=each("batch"),
        fits=each("fits"),
        waits=each("waits"),
        isl=each("isl"),
        osl=each("osl"),
        share_of_chunk=each("isl") / each("chunk"),
        taking_in=each("taking_in"),
        ranks=np.array([plan.parallelism.attention_dp for plan in plans], dtype=np.float64),
        coupled=np.array([plan.parallelism.attention_dp if plan.shape.has_experts else 1.0 for plan in plans]),
        stages=np.array([plan.parallelism.pp for plan in plans], dtype=np.float64),
        layers=np.array([len(plan.shape.blocks) / plan.parallelism.pp for plan in plans]),
        host_ratio=np.array([load_system(plan.system).host_time_ratio.range.at(_HOST_END[end]) for plan in plans]),
        gpus=each("gpus"),
        concurrency=each("concurrency"),
        accepted=each("accepted_length"),
        is_gap=np.array([plan.source == "mlenergy" for plan in plans]),
        is_offline=np.array([plan.is_offline for plan in plans]),
        has_pools=np.array([plan.prefill is not None for plan in plans]),
        prefill_workers=each("prefill_workers"),
        decode_workers=each("decode_workers"),
    )


@dataclass(frozen=True, slots=True)
class Served:
    """Steady state of each case."""

    decode_s: Floats
    """One decode step."""
    prompt_s: Floats
    """What one prompt adds to the steps of its rank, or takes on a GPU for prompts alone."""
    tpot_s: Floats
    ttft_s: Floats
    tokens_per_s_per_gpu: Floats


def served(log_parameters: Floats, loop: Loop, log_factor: Floats | float = 0.0) -> Served:
    """The steady state; log_factor: logarithm of what all times of a case are multiplied by."""
    group, factor = loop.group, np.exp(log_factor)
    gpu = np.einsum("cpt,ct->cp", loop.seconds, multipliers(log_parameters)[group])
    gpu = gpu + loop.launches * of_groups(log_parameters, "launch_s")[group][:, None]
    host = of_groups(log_parameters, "host_s")[group] * loop.host_ratio
    beside = host + of_groups(log_parameters, "per_sequence_s")[group] * loop.host_ratio * loop.batch
    eager = of_groups(log_parameters, "eager_s")[group] * loop.host_ratio * loop.layers
    sharpness = 1 + of_groups(log_parameters, "overlap")[group]
    prefill = gpu[:, PREFILL] * of_groups(log_parameters, "prefill")[group]
    steps = loop.osl / loop.accepted
    # A stage works on its part of the batch at a time.
    arriving = loop.batch / steps / loop.stages
    with_prompts = np.minimum(loop.taking_in, arriving * loop.coupled)
    step = _meet(gpu[:, DECODE], beside, sharpness)
    computed = gpu[:, DECODE] + arriving / with_prompts * prefill * loop.share_of_chunk
    added = (_meet(computed, beside + eager, sharpness) - step) * with_prompts / arriving
    apart = _meet(prefill, host + eager, sharpness) * loop.share_of_chunk
    decode = loop.stages * np.maximum(step * factor, loop.least_s)
    prompt = np.where(loop.has_pools, apart, added) * factor
    mixed = decode + np.where(loop.has_pools, 0.0, loop.batch * prompt / steps)
    tpot = np.where(loop.is_gap, decode, mixed) / loop.accepted
    after_first = mixed / loop.accepted * (loop.osl - 1)
    first = _first_token(log_parameters, loop, prompt, decode, after_first)
    by_loop = loop.concurrency * loop.osl / (first + after_first) / loop.gpus
    by_batch = loop.batch * loop.ranks * loop.accepted / mixed / loop.gpus
    rate = np.where(loop.is_offline, by_batch, np.minimum(by_loop, by_batch))
    first, rate = _pools(loop, apart * factor, decode * steps, first, rate)
    return Served(decode, prompt, tpot, first, rate)


def _meet(one: Floats, other: Floats, sharpness: Floats) -> Floats:
    longer, shorter = np.maximum(one, other), np.minimum(one, other)
    return longer * (1 + (shorter / longer) ** sharpness) ** (1 / sharpness)


def _first_token(log_parameters: Floats, loop: Loop, prompt: Floats, decode: Floats, after_first: Floats) -> Floats:
    """TTFT; after_first: what one request takes from its first token on, s."""
    own, crowd, steps, fixed = (
        of_groups(log_parameters, name)[loop.group] for name in ("ttft_prompt", "ttft_crowd", "ttft_steps", "ttft_s")
    )
    # Of those that wait for room, nobody crowds the prompts.
    running = np.minimum(loop.waits, loop.fits)
    others = np.where(loop.has_pools, running / loop.prefill_workers * loop.decode_workers, running) - 1
    # Workers that compute prompts alone are not cut into stages.
    stages = np.where(loop.has_pools, 1.0, loop.stages)
    computed = own * prompt * stages * (1 + crowd * np.maximum(others, 0.0)) + steps * decode + fixed
    queued = np.maximum(loop.waits / loop.fits - 1, 0.0) * (after_first + computed)
    return computed + queued


def _pools(loop: Loop, prompt: Floats, decoding: Floats, first: Floats, rate: Floats) -> tuple[Floats, Floats]:
    """TTFT and tokens/s per GPU where prompts have GPUs of their own: requests/s of the slower pool."""
    in_flight = loop.concurrency * loop.decode_workers
    alone = in_flight / (first + decoding)
    requests = np.minimum(alone, loop.prefill_workers / prompt)
    waited = np.maximum(first, in_flight / requests - decoding)
    return (
        np.where(loop.has_pools, waited, first),
        np.where(loop.has_pools, requests * loop.osl / loop.gpus, rate),
    )
