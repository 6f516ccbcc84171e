"""A rotary embedding made concrete: random heads, tables, and slots in random order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from tokenwatt_kernels.fused.rope.operands import Append, Rotation
from tokenwatt_kernels.fused.rope.problems import RopeProblem
from tokenwatt_kernels.fused.rope.reference import rotated_reference
from tokenwatt_kernels.testing import guarded_empty

SCALES = (0.005, 0.02)
"""Of keys and values, or of the first KV head. The largest float8 then stands for 2.24 and 8.96."""
POSITIONS = 50


@dataclass(frozen=True, slots=True)
class Inputs:
    """Heads of T tokens, their rotation, and their slots, which are None without a cache."""

    problem: RopeProblem
    q: Tensor
    k: Tensor
    v: Tensor
    rotation: Rotation
    slots: Tensor | None
    k_scale: Tensor | None
    v_scale: Tensor | None

    def rotated(self, name: str, dtype: torch.dtype) -> Tensor:
        """The naive answer for "q" or "k", computed in `dtype`."""
        heads, weight = (self.q, self.rotation.q_weight) if name == "q" else (self.k, self.rotation.k_weight)
        return rotated_reference(heads.to(dtype), self.rotation, weight).to(dtype)

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """Pages, page size and heads of the cache: as many pages as the tokens fill, one more, and the spare ones."""
        problem = self.problem
        pages = -(-problem.tokens // max(problem.page_size, 1)) + 1 + problem.spare_pages
        return pages, problem.page_size, problem.kv_heads

    def append(self, k_cache: Tensor, v_cache: Tensor) -> Append:
        """The append to these caches."""
        assert self.slots is not None
        return Append(k_cache, v_cache, self.slots, self.k_scale, self.v_scale)

    def append_to_empty(self, dtype: torch.dtype) -> Append | None:
        """The append to caches of their own, which are not filled; None without a cache."""
        problem = self.problem
        if self.slots is None:
            return None
        widths = (problem.values + problem.head_dim,) if problem.is_latent else (problem.head_dim, problem.values)
        caches = [torch.empty(*self.cache_shape, width, dtype=dtype, device=self.q.device) for width in widths]
        return self.append(*(parts_of_latents(caches[0], problem.values) if problem.is_latent else caches))


def parts_of_latents(cache: Tensor, value_dim: int) -> tuple[Tensor, Tensor]:
    """Keys and values of a cache of latents."""
    return cache[..., value_dim:], cache[..., :value_dim]


def make_inputs(
    problem: RopeProblem, dtype_name: str, device: torch.device, seed: int = 0, *, poisoned: bool = True
) -> Inputs:
    """Standard normal heads and weights, views of one tensor of which each token has a row.

    poisoned: drawn on the CPU, so that every device gets the same numbers, with NaN after and around the rows.
    """
    generator = torch.Generator("cpu" if poisoned else device).manual_seed(seed)
    dtype = getattr(torch, dtype_name)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device).to(device)

    shapes = (
        (problem.query_heads, problem.head_dim),
        (problem.kv_heads, problem.head_dim),
        (problem.kv_heads, problem.values),
    )
    widths = [prod(shape) for shape in shapes]
    rows = (problem.tokens, sum(widths))
    qkv = guarded_empty(rows, dtype, device).view if poisoned else torch.empty(rows, dtype=dtype, device=device)
    qkv.copy_(drawn(*rows))
    heads = [part.unflatten(1, shape) for part, shape in zip(qkv.split(widths, dim=1), shapes, strict=True)]
    weights = [drawn(problem.head_dim).to(dtype) if problem.has_norm else None for _ in range(2)]

    index = getattr(torch, problem.index_name)
    longest = POSITIONS if poisoned else max(POSITIONS, problem.tokens)
    angles = drawn(longest, problem.rotary // 2) * 10
    order = torch.randperm(longest, generator=generator, device=generator.device).to(device)
    positions = order.repeat(-(-problem.tokens // longest))[: problem.tokens].to(index)
    inputs = Inputs(
        problem=problem,
        q=heads[0],
        k=heads[1],
        v=heads[2],
        rotation=Rotation(
            angles.cos(), angles.sin(), positions, problem.interleaved, weights[0], weights[1],
            eps=1e-5, unit_offset=problem.unit_offset,
        ),
        slots=None,
        k_scale=_scale(problem, SCALES[0], device),
        # A row of latents has one scale.
        v_scale=_scale(problem, SCALES[0 if problem.is_latent else 1], device),
    )  # fmt: skip
    if not problem.page_size:
        return inputs
    first = problem.spare_pages * problem.page_size
    places = inputs.cache_shape[0] * problem.page_size - first
    slots = torch.randperm(places, generator=generator, device=generator.device)[: problem.tokens].to(device) + first
    if problem.skipped:
        slots[1::3] = -1
    return replace(inputs, slots=slots.to(index))


def _scale(problem: RopeProblem, first: float, device: torch.device) -> Tensor | None:
    if problem.kv_dtype is None:
        return None
    heads = 1 if problem.scales == "tensor" else problem.kv_heads
    return first * torch.arange(1, heads + 1, dtype=torch.float32, device=device)
