"""An attention problem made concrete: random tensors, with NaN wherever the answer must not look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from tokenwatt_kernels.attention.keys import Keys
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.problem import FLOAT8, AttentionProblem
from tokenwatt_kernels.attention.reference import attention_reference
from tokenwatt_kernels.testing import guarded_empty

SCALES = (1.5, 2.0, 0.25)  # of queries, keys and values, or of the first KV head


@dataclass(frozen=True, slots=True)
class Inputs:
    """Queries [Tq, Hq, D] of sequences that begin at query_starts, their keys, and the options."""

    q: Tensor
    keys: Keys
    query_starts: Tensor
    options: Options

    def reference(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The naive answer and its log-sum-exp, computed in `dtype`."""
        k, v = (self.keys.packed(tensor).to(dtype) for tensor in (self.keys.k, self.keys.v))
        starts = self.query_starts.tolist()
        return attention_reference(self.q.to(dtype), k, v, starts, self.keys.bounds(), self.options)


def make_inputs(
    problem: AttentionProblem, dtype_name: str, device: torch.device, seed: int = 0, *, poisoned: bool = True
) -> Inputs:
    """Standard normal queries, keys, values and sinks.

    poisoned: drawn on the CPU, so that every device gets the same numbers, and laid into NaN. Otherwise drawn on the
        device and laid out as a serving engine would.
    """
    maker = _Maker(torch.Generator("cpu" if poisoned else device).manual_seed(seed), device, poisoned)
    dtype = getattr(torch, dtype_name)
    kv_dtype = dtype if problem.kv_dtype is None else getattr(torch, problem.kv_dtype)
    # Beside packed keys a gap between tokens, as hardware copies of queries want it, else one between heads.
    q_shape = (sum(problem.queries), problem.query_heads, problem.head_dim)
    q = maker.randn(q_shape, dtype, slack_axis=-1 if problem.page_size else -2)
    keys = (_paged if problem.page_size else _packed)(problem, kv_dtype, maker)
    has_float8 = FLOAT8 in (dtype_name, problem.kv_dtype)
    factors = [_scale(problem, scale, device) if has_float8 else None for scale in SCALES]
    return Inputs(
        q=q,
        keys=keys,
        query_starts=_starts(problem.queries, device),
        options=Options(
            causal=problem.causal,
            window=problem.window,
            softcap=problem.softcap,
            sinks=maker.draw((problem.query_heads,)) if problem.has_sinks else None,
            q_scale=factors[0] if dtype_name == FLOAT8 else None,
            k_scale=factors[1],
            v_scale=factors[2],
        ),
    )


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the tensors of one problem from one stream of random numbers."""

    generator: torch.Generator
    device: torch.device
    poisoned: bool

    def draw(self, shape: Sequence[int]) -> Tensor:
        """Standard normal fp32."""
        return torch.randn(tuple(shape), generator=self.generator, device=self.generator.device).to(self.device)

    def empty(self, shape: Sequence[int], dtype: torch.dtype, *, slack_axis: int) -> Tensor:
        """A tensor inside NaN, or a plain one."""
        if self.poisoned:
            return guarded_empty(shape, dtype, self.device, slack_axis=slack_axis).view
        return torch.empty(tuple(shape), dtype=dtype, device=self.device)

    def randn(self, shape: Sequence[int], dtype: torch.dtype, *, slack_axis: int) -> Tensor:
        """A standard normal tensor."""
        tensor = self.empty(shape, dtype, slack_axis=slack_axis)
        tensor.copy_(self.draw(shape))
        return tensor


def _starts(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _scale(problem: AttentionProblem, first: float, device: torch.device) -> Tensor:
    heads = 1 if problem.scales == "tensor" else problem.kv_heads
    return first / torch.arange(1, heads + 1, dtype=torch.float32, device=device)


def _packed(problem: AttentionProblem, dtype: torch.dtype, maker: _Maker) -> Keys:
    keys = sum(problem.contexts)
    k, v = (
        maker.randn((keys, problem.kv_heads, width), dtype, slack_axis=-2)
        for width in (problem.head_dim, problem.values)
    )
    return Keys(k, v, starts=_starts(problem.contexts, maker.device))


def _paged(problem: AttentionProblem, dtype: torch.dtype, maker: _Maker) -> Keys:
    block_table = _block_table(problem, maker.generator).to(maker.device)
    k = _cache(problem, problem.head_dim, block_table, dtype, maker)
    v = k[..., : problem.values] if problem.is_latent else _cache(problem, problem.values, block_table, dtype, maker)
    context_lens = torch.tensor(problem.contexts, dtype=torch.int32, device=maker.device)
    keys = Keys(k, v, block_table=block_table, context_lens=context_lens)
    return keys.with_values_as_keys() if problem.is_latent else keys


def _block_table(problem: AttentionProblem, generator: torch.Generator) -> Tensor:
    """[B, max_pages + 1] int32: live pages in random order behind the spare ones; unused entries say page 0."""
    needed = [-(-context // problem.page_size) for context in problem.contexts]
    order = torch.randperm(sum(needed), generator=generator, device=generator.device)
    table = torch.zeros(len(needed), max(needed) + 1, dtype=torch.int32)
    for row, pages in zip(table, (order + problem.spare_pages).to("cpu", torch.int32).split(needed), strict=True):
        row[: len(pages)] = pages
    return table


def _cache(problem: AttentionProblem, width: int, block_table: Tensor, dtype: torch.dtype, maker: _Maker) -> Tensor:
    """[pages, page_size, Hkv, width]: random where a sequence has a key; elsewhere NaN, or random if not poisoned.

    Of a pool that passes 2^31 elements only the pages of the sequences are filled: the rest of it may be no memory yet.
    """
    page_size = problem.page_size
    pages = problem.spare_pages + sum(-(-context // page_size) for context in problem.contexts)
    shape = (pages, page_size, problem.kv_heads, width)
    if not maker.poisoned:
        return maker.randn(shape, dtype, slack_axis=-2)
    if problem.passes_int32:
        cache = torch.empty(shape, dtype=dtype, device=maker.device)
        cache[problem.spare_pages :] = float("nan")
    else:
        cache = maker.empty(shape, dtype, slack_axis=-2)
    for row, context in zip(block_table.long(), problem.contexts, strict=True):
        tokens = torch.arange(context, device=maker.device)
        cache[row[tokens // page_size], tokens % page_size] = maker.draw((context, problem.kv_heads, width)).to(dtype)
    return cache
