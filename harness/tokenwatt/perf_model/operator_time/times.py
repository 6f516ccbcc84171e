"""Time of any operator on any known system, for arrays of problems: what a predictor asks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tokenwatt.perf_model.operator_time.collective_times import CollectiveTimes
from tokenwatt.perf_model.operator_time.curves import load_curves
from tokenwatt.perf_model.operator_time.operators import Ceilings
from tokenwatt.perf_model.operator_time.resolution import Method, ResolvedCurve, curve, known_ceilings
from tokenwatt.perf_model.operator_time.routing import rank_load
from tokenwatt.perf_model.operator_time.work import Floats, Shape
from tokenwatt.reference.ranges import Case


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

    @property
    def collectives(self) -> CollectiveTimes:
        """The same of collectives."""
        return CollectiveTimes(self.system, self.engine, self.exclude_gpus, self.case)

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
        return self.collectives.seconds("all_reduce", bytes_, gpus)

    def all_gather_s(self, bytes_: ArrayLike, gpus: int) -> Floats:
        """`bytes_` on every GPU in the end, a share of them from each."""
        return self.collectives.seconds("all_gather", bytes_, gpus)

    def all_to_all_s(self, bytes_: ArrayLike, gpus: int) -> Floats:
        """`bytes_` on every GPU, a share of them for each other one."""
        return self.collectives.seconds("all_to_all", bytes_, gpus)

    def _seconds(self, operator: str, dtype: str, shape: Shape) -> Floats:
        found = self.resolve(operator, dtype)
        return found.curve.seconds(shape, dtype, self._ceilings(dtype))

    def _ceilings(self, dtype: str) -> Ceilings:
        return known_ceilings(self.system, dtype, self.case)
