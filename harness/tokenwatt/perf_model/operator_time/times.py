"""Time of any operator on any known system, for arrays of problems: what a predictor asks."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tokenwatt.errors import UserError, unknown_name
from tokenwatt.perf_model.operator_time.ceilings import ceilings_of, runs_at
from tokenwatt.perf_model.operator_time.curves import STAND_INS, Curve, load_curves
from tokenwatt.perf_model.operator_time.operators import Ceilings, among, operator_of
from tokenwatt.perf_model.operator_time.precision import PRECISIONS, precision
from tokenwatt.perf_model.operator_time.routing import rank_load
from tokenwatt.perf_model.operator_time.trend import load_trend, measured_curve
from tokenwatt.perf_model.operator_time.work import Floats, Shape
from tokenwatt.reference.ranges import Case
from tokenwatt.reference.systems import load_system

Method = Literal["silicon", "specs"]
_SCALES = (2, 4, 8, 16, 32, 64)
"""Numbers of GPUs that collectives were measured among."""
_EXCHANGES = ("all_to_all", "moe_dispatch", "moe_combine")
SCALE_OUT_LATENCY_S = 1e-5
"""Of one hop between domains; aiconfigurator-core 0.12.0, systems/*.yaml: p2p_latency, which it calls unofficial."""


@dataclass(frozen=True, slots=True)
class ResolvedCurve:
    """The curve that answers for an operator on a system."""

    curve: Curve
    method: Method
    note: str
    """What stands in for what; empty where the very curve was measured."""


def curve(gpu: str, engine: str, operator: str, dtype: str, exclude_gpus: Collection[str] = ()) -> ResolvedCurve:
    """The curve of `operator` in `dtype` on `gpu` as `engine` runs it.

    Measured there, or: the nearest precision, each with the nearest engine (`curves.candidates`); else the same from
    the trend of the other systems (`trend`). A GPU in `exclude_gpus` counts as one without tables, for itself and
    for the trend.

    Raises:
        UserError: an unknown engine, operator or dtype, or an operator that no system was measured at.
    """
    return _resolve(gpu, engine, operator, dtype, tuple(sorted(set(exclude_gpus))))


@lru_cache(maxsize=8192)
def _resolve(gpu: str, engine: str, operator: str, dtype: str, exclude: tuple[str, ...]) -> ResolvedCurve:
    if engine not in STAND_INS:
        raise unknown_name("engine", engine, STAND_INS)
    precision(dtype)
    operator_of(operator)
    if gpu not in exclude:
        own = measured_curve(gpu, engine, operator, dtype)
        if own is not None:
            return ResolvedCurve(own, "silicon", _stand_in(own, engine, dtype))
    found = load_trend(exclude).curve(gpu, engine, operator, dtype)
    if found is None:
        raise UserError(f"no system was measured at {operator} in {dtype} or a precision near it")
    start = f"from {', '.join(found.ancestors)}"
    stand_in = _stand_in(found.curve, engine, dtype)
    return ResolvedCurve(found.curve, "specs", f"{start}; {stand_in}" if stand_in else start)


def _stand_in(found: Curve, engine: str, dtype: str) -> str:
    parts = []
    if found.key.engine != engine:
        parts.append(f"{found.key.engine} for {engine}")
    if found.key.dtype != dtype:
        parts.append(f"{found.key.dtype} for {dtype}")
    return ", ".join(parts)


def _array(value: ArrayLike) -> Floats:
    return np.asarray(value, dtype=np.float64)


def _shape(**columns: ArrayLike) -> Shape:
    arrays = np.broadcast_arrays(*(_array(value) for value in columns.values()))
    return dict(zip(columns, arrays, strict=True))


@dataclass(frozen=True, slots=True)
class OperatorTimes:
    """Operators of one engine on one system. Every argument may be an array; they are broadcast together.

    Times are seconds on one GPU, as long as the arguments. `dtype` names a precision (`precision.PRECISIONS`).
    """

    system: str
    engine: str
    exclude_gpus: tuple[str, ...] = ()
    """Systems to be taken as not measured."""
    case: Case = "central"
    """End of the ranges of its Facts that its ceilings are taken at."""

    @property
    def method(self) -> Method:
        """Whether this system has operator tables."""
        return "silicon" if self.system in load_curves() and self.system not in self.exclude_gpus else "specs"

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Memory bandwidth, byte/s."""
        return self._ceilings("bf16").hbm_bytes_per_s

    def peak_flop_per_s(self, dtype: str) -> float:
        """Dense peak of the tensor cores in a precision, FLOP/s."""
        return self._ceilings(dtype).flop_per_s

    def resolve(self, operator: str, dtype: str) -> ResolvedCurve:
        """The curve that answers, and what stands in for what."""
        return curve(self.system, self.engine, operator, dtype, self.exclude_gpus)

    def resolve_among(self, name: str, gpus: int) -> ResolvedCurve:
        """The curve of a collective among `gpus` GPUs; of two between which they lie, that of the fewer."""
        scales = _known_scales(self.system, self.engine, name, self.exclude_gpus)
        return self.resolve(among(name, max((each for each in scales if each <= gpus), default=scales[0])), "bf16")

    def log_sd(self, operator: str, dtype: str) -> float:
        """Standard deviation of log(predicted / true) time of one problem of `operator`."""
        return self.resolve(operator, dtype).curve.log_sd

    def matmul_s(self, m: ArrayLike, n: ArrayLike, k: ArrayLike, dtype: str) -> Floats:
        """(m, k) times a weight of (k, n)."""
        return self._seconds("matmul", dtype, _shape(m=m, n=n, k=k))

    def grouped_matmul_s(
        self,
        tokens: ArrayLike,
        hidden: ArrayLike,
        intermediate: ArrayLike,
        top_k: ArrayLike,
        experts: ArrayLike,
        tp: ArrayLike,
        ep: ArrayLike,
        dtype: str,
        routing: str = "uniform",
    ) -> Floats:
        """Gate, up and down of a layer's experts on the busiest rank, with sorting of tokens and weighting of answers.

        `tokens` of all ranks that share the experts together; `intermediate` of the whole expert, of which a rank has
        1 / tp; `routing` as in `routing.rank_load`.
        """
        shape = _shape(tokens=tokens, hidden=hidden, intermediate=intermediate, top_k=top_k, experts=experts, ep=ep)
        copies, touched = rank_load(shape["tokens"], shape["experts"], shape["top_k"], shape["ep"], routing)
        inner = shape["intermediate"] / _array(tp)
        whole = _shape(**{**shape, "intermediate": inner, "copies": copies, "touched": touched})
        return self._seconds("grouped_matmul", dtype, whole)

    def attention_decode_s(
        self,
        batch: ArrayLike,
        context: ArrayLike,
        heads: ArrayLike,
        kv_heads: ArrayLike,
        head_dim: ArrayLike,
        kv_dtype: str,
        window: ArrayLike = 0,
    ) -> Floats:
        """One new token of each of `batch` sequences over `context` keys, its own included; window 0 is none."""
        shape = _shape(batch=batch, context=context, heads=heads, kv_heads=kv_heads, head_dim=head_dim, window=window)
        return self._seconds("attention.decode", kv_dtype, shape)

    def attention_prefill_s(
        self,
        batch: ArrayLike,
        tokens: ArrayLike,
        prefix: ArrayLike,
        heads: ArrayLike,
        kv_heads: ArrayLike,
        head_dim: ArrayLike,
        dtype: str,
        window: ArrayLike = 0,
    ) -> Floats:
        """`tokens` new tokens of each of `batch` sequences over `prefix` cached ones and themselves.

        `dtype`: bf16, fp8, or bf16_fp8 for bf16 arithmetic over an fp8 cache.
        """
        shape = _shape(
            batch=batch,
            tokens=tokens,
            prefix=prefix,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            window=window,
        )
        return self._seconds("attention.prefill", dtype, shape)

    def latent_decode_s(
        self,
        batch: ArrayLike,
        context: ArrayLike,
        heads: ArrayLike,
        kv_dtype: str,
        latent_dim: ArrayLike = 512,
        rotary_dim: ArrayLike = 64,
    ) -> Floats:
        """Latent attention with absorbed projections; the projections are matmuls of their own."""
        shape = _shape(batch=batch, context=context, heads=heads, latent_dim=latent_dim, rotary_dim=rotary_dim)
        return self._seconds("latent.decode", kv_dtype, shape)

    def latent_prefill_s(
        self,
        batch: ArrayLike,
        tokens: ArrayLike,
        prefix: ArrayLike,
        heads: ArrayLike,
        dtype: str,
        qk_head_dim: ArrayLike = 192,
        v_head_dim: ArrayLike = 128,
    ) -> Floats:
        """Latent attention with expanded keys and values; the projections are matmuls of their own."""
        shape = _shape(
            batch=batch, tokens=tokens, prefix=prefix, heads=heads, qk_head_dim=qk_head_dim, v_head_dim=v_head_dim
        )
        return self._seconds("latent.prefill", dtype, shape)

    def linear_prefill_s(
        self,
        batch: ArrayLike,
        tokens: ArrayLike,
        key_heads: ArrayLike,
        value_heads: ArrayLike,
        key_dim: ArrayLike = 128,
        value_dim: ArrayLike = 128,
    ) -> Floats:
        """Gated delta rule over `tokens` of each of `batch` sequences, with its convolution."""
        shape = _shape(
            batch=batch,
            tokens=tokens,
            key_heads=key_heads,
            value_heads=value_heads,
            key_dim=key_dim,
            value_dim=value_dim,
        )
        return self._seconds("linear_attention.prefill", "bf16", shape)

    def linear_decode_s(
        self,
        batch: ArrayLike,
        key_heads: ArrayLike,
        value_heads: ArrayLike,
        key_dim: ArrayLike = 128,
        value_dim: ArrayLike = 128,
    ) -> Floats:
        """Gated delta rule for one token of each sequence, with its convolution."""
        shape = _shape(batch=batch, key_heads=key_heads, value_heads=value_heads, key_dim=key_dim, value_dim=value_dim)
        return self._seconds("linear_attention.decode", "bf16", shape)

    def all_reduce_s(self, bytes_: ArrayLike, gpus: int) -> Floats:
        """Sum of `bytes_` that each of `gpus` GPUs holds, left on all of them."""
        return self._collective_s("all_reduce", bytes_, gpus)

    def all_gather_s(self, bytes_: ArrayLike, gpus: int) -> Floats:
        """`bytes_` on every GPU in the end, a share of them from each."""
        return self._collective_s("all_gather", bytes_, gpus)

    def reduce_scatter_s(self, bytes_: ArrayLike, gpus: int) -> Floats:
        """Sum of `bytes_` that each GPU holds, a share of it left on each."""
        return self._collective_s("reduce_scatter", bytes_, gpus)

    def all_to_all_s(self, bytes_: ArrayLike, gpus: int) -> Floats:
        """`bytes_` on every GPU, a share of them for each other one."""
        return self._collective_s("all_to_all", bytes_, gpus)

    def moe_dispatch_s(self, tokens: ArrayLike, hidden: ArrayLike, top_k: ArrayLike, gpus: int) -> Floats:
        """`tokens` of each rank on their way to experts on `gpus` ranks."""
        return self._collective_s("moe_dispatch", _copied_bytes(tokens, hidden, top_k, gpus), gpus)

    def moe_combine_s(self, tokens: ArrayLike, hidden: ArrayLike, top_k: ArrayLike, gpus: int) -> Floats:
        """The experts' answers on their way back."""
        return self._collective_s("moe_combine", _copied_bytes(tokens, hidden, top_k, gpus), gpus)

    def _seconds(self, operator: str, dtype: str, shape: Shape) -> Floats:
        found = self.resolve(operator, dtype)
        return found.curve.seconds(shape, dtype, self._ceilings(dtype))

    def _ceilings(self, dtype: str) -> Ceilings:
        return _known_ceilings(self.system, dtype, self.case)

    def _collective_s(self, name: str, bytes_: ArrayLike, gpus: int) -> Floats:
        """Time of a collective among any number of GPUs.

        Between two measured numbers of GPUs log time is a line in log GPUs. Beyond the largest, latency grows with the
        depth of a tree, log2(gpus), and the bytes that leave a GPU as the collective has it. Beyond the domain of the
        links it is `_scaled_out_s`.
        """
        moved = _array(bytes_)
        if gpus <= 1:
            return np.zeros_like(moved)
        if gpus > load_system(self.system).gpus_per_domain.value:
            return self._scaled_out_s(name, moved, gpus)
        scales = _known_scales(self.system, self.engine, name, self.exclude_gpus)
        below = max((each for each in scales if each <= gpus), default=scales[0])
        above = min((each for each in scales if each >= gpus), default=scales[-1])
        near = self._among_s(name, moved, below, gpus if above <= below else below)
        if below == above:
            return near
        far = self._among_s(name, moved, above, above)
        weight = math.log(gpus / below) / math.log(above / below)
        return near * (far / near) ** weight

    def _scaled_out_s(self, name: str, moved: Floats, gpus: int) -> Floats:
        """Time among GPUs of n > 1 domains, d in each, by the bytes that cross between them at the network's speed: no
        less than among those of one full domain.

        Reductions and gathers do their part within a domain, then each GPU with its n - 1 counterparts: of S bytes
        (n - 1) / n x S / d cross, of an all-reduce twice. What each GPU sends to all others goes both ways at once: of
        S bytes the share of the GPUs outside crosses, no copy standing for a whole domain (so send the kernels that are
        made for decoding). A hop costs SCALE_OUT_LATENCY_S, and a tree has log2(n).
        """
        spec = load_system(self.system)
        full = int(spec.gpus_per_domain.value)
        domains = math.ceil(gpus / full)
        each = math.ceil(gpus / domains)
        network = spec.scale_out_bytes_per_s.range.at(self.case)
        hops = SCALE_OUT_LATENCY_S * math.log2(domains)
        least = self._collective_s(name, moved, full)
        if name in _EXCHANGES:
            return np.maximum(least, moved * (1 - 1 / domains) / network + hops)
        ways = 2 if name == "all_reduce" else 1
        across = moved / each * (1 - 1 / domains) / network + hops
        return np.maximum(least, self._collective_s(name, moved, each)) + ways * across

    def _among_s(self, name: str, moved: Floats, measured: int, gpus: int) -> Floats:
        """Time among `gpus` GPUs by the curve of `measured` ones."""
        found = self.resolve(among(name, measured), "bf16").curve
        depth = math.log2(gpus) / math.log2(measured)
        deeper = Curve(
            found.key, {**found.parameters, "latency_s": found.parameters["latency_s"] * depth}, found.log_sd
        )
        return deeper.seconds(_shape(bytes=moved, gpus=gpus), "bf16", self._ceilings("bf16"))


@lru_cache(maxsize=1024)
def _known_ceilings(system: str, dtype: str, case: Case) -> Ceilings:
    spec = load_system(system)
    if not runs_at(spec, dtype):
        having = [name for name in PRECISIONS if runs_at(spec, name)]
        raise UserError(f"{system} has no {dtype}; it has {', '.join(having)}")
    return ceilings_of(spec, dtype, case)


@lru_cache(maxsize=1024)
def _known_scales(system: str, engine: str, name: str, exclude: tuple[str, ...]) -> tuple[int, ...]:
    known = []
    domain = load_system(system).gpus_per_domain.value
    for gpus in _SCALES:
        if gpus > domain:
            continue
        own = None if system in exclude else measured_curve(system, engine, among(name, gpus), "bf16")
        if own is not None or load_trend(exclude).curve(system, engine, among(name, gpus), "bf16") is not None:
            known.append(gpus)
    if not known:
        raise UserError(f"no system was measured at {name}")
    return tuple(known)


def _copied_bytes(tokens: ArrayLike, hidden: ArrayLike, top_k: ArrayLike, gpus: int) -> Floats:
    """bf16 bytes of a rank's tokens, one copy for each rank that has one of their experts, at most."""
    return _array(tokens) * np.minimum(_array(top_k), gpus) * _array(hidden) * 2
