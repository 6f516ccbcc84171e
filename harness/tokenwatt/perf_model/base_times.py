"""Time of every operation of every case by the operator curves, before any engine is considered.

All cases go through together: operations that share a curve are one array.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenwatt.perf_model.operation_kinds import DECODE, PREFILL, TERMS, term_of
from tokenwatt.perf_model.operations import Operation
from tokenwatt.perf_model.operator_time.times import OperatorTimes
from tokenwatt.perf_model.plan import Plan
from tokenwatt.reference.ranges import Case
from tokenwatt.reference.systems import load_system

Floats = NDArray[np.float64]

ROUTING = "power_law_1.2"
"""How tokens choose experts (`operator_time.routing`): some are liked better, and the busiest GPU decides. With it an
engine's experts take what the curves say (0.9 to 1.3 times, fitted); with even choices the curves fall short."""


@dataclass(frozen=True, slots=True)
class BaseTimes:
    """One entry for each kind of operation of each case; `cases` is how many cases there are."""

    cases: int
    case: NDArray[np.int64]
    phase: NDArray[np.int64]
    """DECODE or PREFILL."""
    term: NDArray[np.int64]
    """Place in TERMS."""
    names: tuple[str, ...]
    seconds: Floats
    """Of all equal operations of a step together."""
    launches: Floats
    """Kernels that are not timed by a curve and cost their launch: those that work element by element."""
    flop: Floats
    bytes: Floats
    link_bytes: Floats
    log_sd: Floats
    """Of the curve: how far a single problem lies from it, as a standard deviation of log time."""
    from_specs: NDArray[np.bool_]
    """Whether the curve was carried over from other systems."""

    def by_term(self, weights: Floats) -> Floats:
        """Sums of one number of each entry; (cases, 2 phases, terms)."""
        sums = np.zeros((self.cases, 2, len(TERMS)))
        np.add.at(sums, (self.case, self.phase, self.term), weights)
        return sums

    def streamed(self) -> Floats:
        """Bytes that cannot be done without: operations between matmuls may be fused; (cases, 2 phases)."""
        return self.by_phase(np.where(self.term == TERMS.index("elementwise"), 0.0, self.bytes))

    def by_phase(self, weights: Floats) -> Floats:
        """(cases, 2 phases)."""
        sums = np.zeros((self.cases, 2))
        np.add.at(sums, (self.case, self.phase), weights)
        return sums


def base_times(plans: Sequence[Plan], exclude_gpus: Collection[str] = (), end: Case = "central") -> BaseTimes:
    """Times of the steps of all plans.

    exclude_gpus: systems to be taken as ones without operator tables; end: which end of the ranges of peak, bandwidth
    and link a system's ceilings are taken at.
    """
    entries = [
        (case, phase, operation)
        for case, plan in enumerate(plans)
        for phase, operations in ((DECODE, plan.decode_operations()), (PREFILL, plan.prefill_operations()))
        for operation in operations
    ]
    seconds, log_sd, from_specs = (np.zeros(len(entries)) for _ in range(3))
    dtypes = [computed_dtype(operation.dtype, plans[case].system) for case, _, operation in entries]
    groups: dict[tuple[str, str, str, str, int], list[int]] = defaultdict(list)
    for place, (case, _, operation) in enumerate(entries):
        plan = plans[case]
        ranks = operation.ranks if operation.is_collective else 1
        groups[plan.system, plan.engine, operation.kind, dtypes[place], ranks].append(place)
    for (system, engine, kind, dtype, ranks), places in groups.items():
        times = OperatorTimes(system, engine, tuple(sorted(exclude_gpus)), end)
        operations = [entries[place][2] for place in places]
        one, spread, carried = _ASKED[kind](times, operations, dtype, ranks)
        seconds[places], log_sd[places], from_specs[places] = one, spread, carried
    counts = np.array([operation.count for _, _, operation in entries])
    collective = np.array([operation.is_collective for _, _, operation in entries])
    moved = np.array([operation.bytes for _, _, operation in entries])
    is_small = np.array([operation.kind in ("elementwise", "send") for _, _, operation in entries])
    return BaseTimes(
        cases=len(plans),
        case=np.array([case for case, _, _ in entries]),
        phase=np.array([phase for _, phase, _ in entries]),
        term=np.array(
            [TERMS.index(term_of(operation, dtype)) for (_, _, operation), dtype in zip(entries, dtypes, strict=True)]
        ),
        names=tuple(operation.name for _, _, operation in entries),
        seconds=seconds * counts,
        launches=np.where(is_small, counts, 0.0),
        flop=np.array([operation.flop for _, _, operation in entries]) * counts,
        bytes=np.where(collective, 0.0, moved) * counts,
        link_bytes=np.where(collective, moved, 0.0) * counts,
        log_sd=log_sd,
        from_specs=from_specs.astype(bool),
    )


def computed_dtype(dtype: str, system: str) -> str:
    """What weights are multiplied in: MXFP4 with activations in fp8 where the tensor cores know fp4; weights of one
    byte in bf16 where they do not know fp8, as int8 is served on A100."""
    spec = load_system(system)
    if dtype == "mxfp4" and spec.has_peak("fp4"):
        return "mxfp4_fp8"
    return "int8" if dtype in ("fp8", "fp8_block") and not spec.has_peak("fp8") else dtype


Answer = tuple[Floats, float, bool]
Asked = Callable[[OperatorTimes, list[Operation], str, int], Answer]


def _sizes(operations: list[Operation], *names: str) -> list[Floats]:
    shapes = [dict(operation.shape) for operation in operations]
    return [np.array([shape[name] for shape in shapes]) for name in names]


def _of(times: OperatorTimes, operator: str, dtype: str, seconds: Floats) -> Answer:
    found = times.resolve(operator, dtype)
    return seconds, found.curve.log_sd, found.method == "specs"


def _matmul(times: OperatorTimes, operations: list[Operation], dtype: str, ranks: int) -> Answer:
    del ranks
    m, n, k = _sizes(operations, "m", "n", "k")
    return _of(times, "matmul", dtype, times.matmul_s(m, n, k, dtype))


def _grouped_matmul(times: OperatorTimes, operations: list[Operation], dtype: str, ranks: int) -> Answer:
    del ranks
    tokens, hidden, inner, top_k, experts, ep = _sizes(
        operations, "tokens", "hidden", "intermediate", "top_k", "experts", "ep"
    )
    seconds = times.grouped_matmul_s(tokens, hidden, inner, top_k, experts, 1, ep, dtype, ROUTING)
    return _of(times, "grouped_matmul", dtype, seconds)


def _attention_decode(times: OperatorTimes, operations: list[Operation], dtype: str, ranks: int) -> Answer:
    del ranks
    batch, context, queries, heads, kv_heads, width = _sizes(
        operations, "batch", "context", "queries", "heads", "kv_heads", "head_dim"
    )
    # Drafted tokens are more rows over the same keys, as more heads are.
    seconds = times.attention_decode_s(batch, context, heads * queries, kv_heads, width, dtype)
    return _of(times, "attention.decode", dtype, seconds)


def _attention_prefill(times: OperatorTimes, operations: list[Operation], dtype: str, ranks: int) -> Answer:
    del ranks
    batch, tokens, prefix, heads, kv_heads, width, window = _sizes(
        operations, "batch", "tokens", "prefix", "heads", "kv_heads", "head_dim", "window"
    )
    seconds = times.attention_prefill_s(batch, tokens, prefix, heads, kv_heads, width, dtype, window)
    return _of(times, "attention.prefill", dtype, seconds)


def _latent_decode(times: OperatorTimes, operations: list[Operation], dtype: str, ranks: int) -> Answer:
    del ranks
    batch, context, queries, heads, latent, rotary = _sizes(
        operations, "batch", "context", "queries", "heads", "latent_dim", "rotary_dim"
    )
    seconds = times.latent_decode_s(batch, context, heads * queries, dtype, latent, rotary)
    return _of(times, "latent.decode", dtype, seconds)


def _latent_prefill(times: OperatorTimes, operations: list[Operation], dtype: str, ranks: int) -> Answer:
    del ranks
    batch, tokens, prefix, heads, window, key, value = _sizes(
        operations, "batch", "tokens", "prefix", "heads", "window", "qk_head_dim", "v_head_dim"
    )
    # Tokens that see `window` chosen keys have as many pairs as parts of `window` tokens behind half as many.
    part = np.where(window > 0, window, tokens)
    before = np.where(window > 0, window / 2, prefix)
    seconds = times.latent_prefill_s(batch * tokens / part, part, before, heads, dtype, key, value)
    return _of(times, "latent.prefill", dtype, seconds)


def _recurrence_decode(times: OperatorTimes, operations: list[Operation], dtype: str, ranks: int) -> Answer:
    del dtype, ranks
    sizes = _sizes(operations, "batch", "key_heads", "value_heads", "key_dim", "value_dim")
    return _of(times, "linear_attention.decode", "bf16", times.linear_decode_s(*sizes))


def _recurrence_prefill(times: OperatorTimes, operations: list[Operation], dtype: str, ranks: int) -> Answer:
    del dtype, ranks
    sizes = _sizes(operations, "batch", "tokens", "key_heads", "value_heads", "key_dim", "value_dim")
    return _of(times, "linear_attention.prefill", "bf16", times.linear_prefill_s(*sizes))


def _elementwise(times: OperatorTimes, operations: list[Operation], dtype: str, ranks: int) -> Answer:
    """Streaming at the share of the bandwidth that matmuls reach, or at theirs of the peak (an index has FLOP)."""
    del ranks
    found = times.resolve("matmul", "bf16")
    share = found.curve.parameters
    streaming = _moved(operations) / (times.bandwidth_bytes_per_s * share["byte_efficiency"])
    flop = np.array([operation.flop for operation in operations])
    computing = flop / (times.peak_flop_per_s(dtype) * share["flop_efficiency"])
    return np.maximum(streaming, computing), found.curve.log_sd, found.method == "specs"


def _all_reduce(times: OperatorTimes, operations: list[Operation], dtype: str, ranks: int) -> Answer:
    del dtype
    return _collective(times, "all_reduce", ranks, times.all_reduce_s(_moved(operations), ranks))


def _all_gather(times: OperatorTimes, operations: list[Operation], dtype: str, ranks: int) -> Answer:
    del dtype
    return _collective(times, "all_gather", ranks, times.all_gather_s(_moved(operations) * ranks, ranks))


def _all_to_all(times: OperatorTimes, operations: list[Operation], dtype: str, ranks: int) -> Answer:
    del dtype
    return _collective(times, "all_to_all", ranks, times.all_to_all_s(_moved(operations), ranks))


def _collective(times: OperatorTimes, name: str, ranks: int, seconds: Floats) -> Answer:
    found = times.collectives.resolve(name, ranks)
    return seconds, found.curve.log_sd, found.method == "specs"


def _moved(operations: list[Operation]) -> Floats:
    return np.array([operation.bytes for operation in operations])


def _send(times: OperatorTimes, operations: list[Operation], dtype: str, ranks: int) -> Answer:
    """From one pipeline stage to the next: an all-gather between two moves as much."""
    del dtype, ranks
    return _collective(times, "all_gather", 2, times.all_gather_s(2 * _moved(operations), 2))


_ASKED: Mapping[str, Asked] = {
    "matmul": _matmul,
    "grouped_matmul": _grouped_matmul,
    "attention.decode": _attention_decode,
    "attention.prefill": _attention_prefill,
    "latent.decode": _latent_decode,
    "latent.prefill": _latent_prefill,
    "recurrence.decode": _recurrence_decode,
    "recurrence.prefill": _recurrence_prefill,
    "elementwise": _elementwise,
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "all_to_all": _all_to_all,
    "send": _send,
}
