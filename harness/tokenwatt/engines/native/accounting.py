"""What each step had to do: operations and bytes that its kernels cannot avoid, by their own `work.py`.

Norms, products and the like depend on how many tokens a step has, attention on the lengths of its sequences too.
Experts are counted as touched where routing is uniform: which ones really were is known to the device alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tokenwatt.architecture import (
    BYTES_PER_ELEMENT,
    Architecture,
    DenseMlp,
    GroupedAttention,
    LatentAttention,
    Layer,
    MixtureOfExperts,
)
from tokenwatt.engines.native.scheduler import Step
from tokenwatt.engines.protocol import Family
from tokenwatt_kernels.fused.norm.problems import NormProblem, Scales
from tokenwatt_kernels.fused.norm.work import work as norm_work
from tokenwatt_kernels.fused.rope.problems import RopeProblem
from tokenwatt_kernels.fused.rope.work import work as rope_work
from tokenwatt_kernels.matmul.packed.formats import bytes_of
from tokenwatt_kernels.matmul.packed.problems import PackedProblem
from tokenwatt_kernels.matmul.packed.work import work as packed_work
from tokenwatt_kernels.matmul.problem import FLOAT8, MatmulProblem
from tokenwatt_kernels.matmul.problem import work as matmul_work
from tokenwatt_kernels.work import Work

INDEX_BYTES = 4
FAMILIES: tuple[Family, ...] = ("attention", "matmul", "moe", "fused")
"""Groups of kernels, in the order of a step's totals."""


class StepShape(NamedTuple):
    """What the work of a step depends on, summed over its sequences."""

    decodes: int
    decode_contexts: int
    """Tokens that the sequences which decode have in the cache, those of the step included."""
    chunks: int
    chunk_tokens: int
    chunk_contexts: int
    """The same of the sequences whose prompt is computed."""
    sampled: int
    """Sequences that get an output token."""

    @classmethod
    def of(cls, step: Step) -> StepShape:
        """The shape of a step."""
        decodes = step.decodes
        decode_contexts = int(step.starts[:decodes].sum()) + decodes
        if not step.chunks:
            return cls(decodes, decode_contexts, 0, 0, 0, decodes)
        chunk_tokens = int(step.counts[decodes:].sum())
        chunk_contexts = int(step.starts[decodes:].sum()) + chunk_tokens
        return cls(decodes, decode_contexts, len(step.chunks), chunk_tokens, chunk_contexts, len(step.sequences))


@dataclass(slots=True)
class StepLog:
    """The work of every step of one `serve`, with the time at which its tokens were on the host."""

    at_s: list[float] = field(default_factory=list)
    works: list[tuple[Work, ...]] = field(default_factory=list)
    """For each step a `Work` for each of FAMILIES."""
    shapes: list[StepShape] = field(default_factory=list)

    def note(self, at_s: float, works: tuple[Work, ...], shape: StepShape) -> None:
        """A step is done."""
        self.at_s.append(at_s)
        self.works.append(works)
        self.shapes.append(shape)

    def between(self, start_s: float, end_s: float) -> dict[Family, Work]:
        """The work of the steps whose tokens came in (start_s, end_s], by family."""
        inside = [works for at_s, works in zip(self.at_s, self.works, strict=True) if start_s < at_s <= end_s]
        return {family: total(works[place] for works in inside) for place, family in enumerate(FAMILIES)}

    def shapes_between(self, start_s: float, end_s: float) -> list[StepShape]:
        """The shapes of the same steps."""
        return [shape for at_s, shape in zip(self.at_s, self.shapes, strict=True) if start_s < at_s <= end_s]


def total(works: Iterable[Work]) -> Work:
    """The sum of some works."""
    flop, bytes_ = 0, 0
    for work in works:
        flop += work.flop
        bytes_ += work.bytes
    return Work(flop, bytes_)


@dataclass(frozen=True, eq=False)
class Accounting:
    """Works of steps of one model on one device; of several that share it, `size` times a device's."""

    architecture: Architecture
    """What a device holds."""
    dtype: str
    quantization: str
    kv_dtype: str
    page_size: int
    size: int = 1
    _known: dict[tuple[int, int], tuple[Work, Work, Work]] = field(default_factory=dict, repr=False)

    def of(self, step: Step) -> tuple[Work, ...]:
        """The work of a step, for each of FAMILIES."""
        tokens, sampled = step.tokens, len(step.sequences)
        attention, expanding = self._attention(step)
        if (tokens, sampled) not in self._known:
            self._known[tokens, sampled] = self._of_rows(tokens, sampled)
        matmul, moe, fused = self._known[tokens, sampled]
        return tuple(self._everywhere(work) for work in (attention, total([matmul, expanding]), moe, fused))

    def _everywhere(self, work: Work) -> Work:
        return Work(self.size * work.flop, self.size * work.bytes)

    def _of_rows(self, tokens: int, sampled: int) -> tuple[Work, Work, Work]:
        """Products, experts, and what lies between them, for steps with so many tokens and sequences that get one."""
        architecture = self.architecture
        kinds: dict[Layer, int] = {}
        for layer in architecture.layers:
            kinds[layer] = kinds.get(layer, 0) + 1
        head_rows = architecture.vocab_size // (1 if architecture.vocab_size % self.size else self.size)
        matmul, moe = [self._product(sampled, head_rows, architecture.hidden_size, "none")], []
        fused = [self._norm(sampled, architecture.hidden_size), self._embedding(tokens)]
        for layer, count in kinds.items():
            products, experts, others = self._of_layer(layer, tokens)
            matmul += count * products
            moe += count * experts
            fused += count * others
        return total(matmul), total(moe), total(fused)

    def _of_layer(self, layer: Layer, tokens: int) -> tuple[list[Work], list[Work], list[Work]]:
        h, attention = self.architecture.hidden_size, self.architecture.attention
        is_sandwich, is_float8 = self.architecture.has_sandwich_norms, self.quantization == "fp8"
        before = self._norm(tokens, h, has_residual=is_sandwich, scales="token" if is_float8 else "none")
        fused = [before, before, *(2 * [self._norm(tokens, h)] if is_sandwich else [])]
        products = self._projections(tokens)
        if isinstance(attention, GroupedAttention):
            rope = RopeProblem(
                "", tokens, attention.num_attention_heads, attention.num_key_value_heads, attention.head_dim,
                has_norm=attention.has_qk_norm, page_size=self.page_size, kv_dtype=self._cache_dtype,
                index_name="int32",
            )  # fmt: skip
        else:
            fused += [self._norm(tokens, width) for width in (attention.kv_lora_rank, attention.q_lora_rank) if width]
            rope = RopeProblem(
                "", tokens, attention.num_attention_heads, 1, attention.qk_rope_head_dim, attention.kv_lora_rank,
                page_size=self.page_size, kv_dtype=self._cache_dtype, index_name="int32", is_latent=True,
            )  # fmt: skip
        fused.append(rope_work(rope, self.dtype))
        if isinstance(layer.mlp, DenseMlp):
            return products + self._gated(tokens, layer.mlp.intermediate_size), [], fused
        router_dtype = "float32" if layer.mlp.score == "sigmoid" else None
        products.append(self._product(tokens, layer.mlp.num_experts, h, "none", dtype=router_dtype))
        if layer.mlp.shared_intermediate_size:
            products += self._gated(tokens, layer.mlp.shared_intermediate_size)
        return products, [self._experts(layer.mlp, tokens)], fused

    @property
    def _cache_dtype(self) -> str | None:
        return None if self.kv_dtype == self.dtype else self.kv_dtype

    def _projections(self, tokens: int) -> list[Work]:
        h, attention, q = self.architecture.hidden_size, self.architecture.attention, self.quantization
        heads = attention.num_attention_heads
        if isinstance(attention, GroupedAttention):
            out = attention.q_size
            shapes = [(attention.q_size + 2 * attention.kv_size, h)]
        else:
            out, rank = heads * attention.v_head_dim, attention.q_lora_rank
            shapes = [(attention.cached_size, h), (heads * attention.qk_head_dim, rank or h)]
            shapes += [(rank, h)] if rank else []
        return [self._product(tokens, h, out, q, has_residual=True), *(self._product(tokens, *s, q) for s in shapes)]

    def _gated(self, tokens: int, intermediate: int) -> list[Work]:
        h, q = self.architecture.hidden_size, self.quantization
        gate_up = self._product(tokens, 2 * intermediate, h, q, is_gated=True)
        return [gate_up, self._product(tokens, h, intermediate, q, has_residual=True)]

    def _product(
        self,
        m: int,
        n: int,
        k: int,
        number_format: str,
        *,
        is_gated: bool = False,
        has_residual: bool = False,
        dtype: str | None = None,
    ) -> Work:
        """x [m, k] times a weight [n, k]; dtype: None means that of the activations."""
        if m == 0:  # then not even the weight is read
            return Work(0, 0)
        activation = "swiglu" if is_gated else "none"
        if number_format == "int4":
            problem = PackedProblem("", m, n, k, "int4", activation, has_residual=has_residual)
            return packed_work(problem, self.dtype)
        is_float8 = number_format == "fp8"
        scaling = "token_channel" if is_float8 else "none"
        problem = MatmulProblem("", m, n, k, activation, has_residual=has_residual, scaling=scaling)
        return matmul_work(problem, FLOAT8 if is_float8 else dtype or self.dtype)

    def _expert_bytes(self, n: int, k: int) -> int:
        """Of one expert's weight [n, k]."""
        if self.architecture.checkpoint_format == "mxfp4_experts":
            return bytes_of("mxfp4", n, k)
        return n * k * (1 if self.quantization == "fp8" else BYTES_PER_ELEMENT[self.dtype])

    def _experts(self, mlp: MixtureOfExperts, tokens: int) -> Work:
        """Both products of a layer's experts, with the weights of those that are expected to have tokens."""
        h, i, size = self.architecture.hidden_size, mlp.intermediate_size, BYTES_PER_ELEMENT[self.dtype]
        weight = self._expert_bytes(2 * i, h) + self._expert_bytes(h, i)
        rows = tokens * mlp.top_k
        numbers = 3 * rows + 2 * (mlp.num_experts + 1)  # order twice, weights once, offsets twice
        moved = math.ceil(mlp.touched(tokens) * weight) + (tokens * h + 2 * rows * i + 2 * tokens * h) * size
        return Work(2 * rows * 3 * h * i, moved + numbers * INDEX_BYTES)

    def _norm(self, rows: int, width: int, *, has_residual: bool = False, scales: Scales = "none") -> Work:
        return norm_work(NormProblem("", rows, width, has_residual=has_residual, scales=scales), self.dtype)

    def _embedding(self, tokens: int) -> Work:
        return Work(0, 2 * tokens * self.architecture.hidden_size * BYTES_PER_ELEMENT[self.dtype])

    def _attention(self, step: Step) -> tuple[Work, Work]:
        """Attention of all layers, and the products with which latents become keys and values."""
        attention = self.architecture.attention
        contexts = step.starts.astype(np.int64) + step.counts
        windows: dict[int | None, int] = {}
        for layer in self.architecture.layers:
            windows[layer.window] = windows.get(layer.window, 0) + 1
        if isinstance(attention, GroupedAttention):
            works = [
                self._over(step.counts, contexts, window, layers, attention.num_attention_heads, attention.head_dim,
                           attention.head_dim, attention.num_key_value_heads * 2 * attention.head_dim)
                for window, layers in windows.items()
            ]  # fmt: skip
            return total(works), Work(0, 0)
        return self._latent(attention, step, contexts, self.architecture.num_hidden_layers)

    def _latent(self, attention: LatentAttention, step: Step, contexts: np.ndarray, layers: int) -> tuple[Work, Work]:
        heads, rank, size = attention.num_attention_heads, attention.kv_lora_rank, BYTES_PER_ELEMENT[self.dtype]
        few, rest = slice(0, step.decodes), slice(step.decodes, None)
        works, products = [], []
        expanded = attention.qk_nope_head_dim + attention.v_head_dim
        if step.decodes:
            works.append(
                self._over(step.counts[few], contexts[few], None, layers, heads, attention.cached_size, rank,
                           attention.cached_size)
            )  # fmt: skip
            rows = step.decodes
            moved = rank * expanded + rows * (expanded + 2 * rank)
            products.append(Work(2 * layers * heads * rows * rank * expanded, layers * heads * moved * size))
        if step.chunks:
            works.append(
                self._over(step.counts[rest], contexts[rest], None, layers, heads, attention.qk_head_dim,
                           attention.v_head_dim, heads * (attention.qk_head_dim + attention.v_head_dim), is_paged=False)
            )  # fmt: skip
            keys = int(contexts[rest].sum())
            product = self._product(keys, heads * expanded, rank, "none")
            gathered = 2 * keys * attention.cached_size * size
            products.append(Work(layers * product.flop, layers * (product.bytes + gathered)))
        return total(works), total(products)

    def _over(
        self, queries: np.ndarray, contexts: np.ndarray, window: int | None, layers: int, heads: int, key_dim: int,
        value_dim: int, kept: int, *, is_paged: bool = True,
    ) -> Work:  # fmt: skip
        """As `attention.work`, for `layers` layers. kept: elements of a token's keys and values."""
        before = contexts - queries
        pairs = int((_visible(contexts, window) - _visible(before, window)).sum())
        needed = contexts if window is None else np.minimum(contexts, queries + window - 1)
        size, kv_size = BYTES_PER_ELEMENT[self.dtype], BYTES_PER_ELEMENT[self.kv_dtype if is_paged else self.dtype]
        indices = len(contexts) + int((-(-needed // self.page_size)).sum()) if is_paged else 0
        ends = int(queries.sum()) * heads * (key_dim + value_dim) * size
        return Work(
            layers * 2 * pairs * heads * (key_dim + value_dim),
            layers * (ends + int(needed.sum()) * kept * kv_size + indices * INDEX_BYTES),
        )


def _visible(tokens: np.ndarray, window: int | None) -> np.ndarray:
    """Pairs of a query and a key that it sees, among the first `tokens` tokens of sequences."""
    if window is None:
        return tokens * (tokens + 1) // 2
    growing = np.minimum(tokens, window)
    return growing * (growing + 1) // 2 + (tokens - growing) * window
