"""A grouped matmul made concrete: random tensors, with NaN wherever the answer must not look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from tokenwatt_kernels.matmul.packed.formats import WORDS, chunks
from tokenwatt_kernels.matmul.packed.inputs import random_weight
from tokenwatt_kernels.matmul.packed.weights import PackedWeight
from tokenwatt_kernels.matmul.scaling import BLOCK as SCALE_BLOCK
from tokenwatt_kernels.matmul.scaling import weight_scale_rows
from tokenwatt_kernels.moe.grouped.problems import FLOAT8, GroupedProblem
from tokenwatt_kernels.moe.grouped.product import Product
from tokenwatt_kernels.testing import guarded_empty


@dataclass(frozen=True, slots=True)
class Inputs:
    """A product and, where the problem has one, the residual [T, n] of what is combined."""

    product: Product
    residual: Tensor | None


def make_inputs(
    problem: GroupedProblem, dtype_name: str, device: torch.device, seed: int = 0, *, poisoned: bool = True
) -> Inputs:
    """Normal numbers, of a size that makes products of about 1, which is where activations bend.

    poisoned: drawn on the CPU, so that every device gets the same numbers, and laid into NaN. Otherwise drawn on the
        device and laid out as a serving engine would.
    """
    maker = _Maker(torch.Generator("cpu" if poisoned else device).manual_seed(seed), device, poisoned)
    dtype, experts, rows = getattr(torch, dtype_name), len(problem.rows), sum(problem.rows)
    is_float8 = dtype_name == FLOAT8
    a_rows = problem.tokens if problem.gathers else rows
    size = 1.0 if is_float8 else problem.k**-0.5
    a = maker.randn((a_rows, problem.k), dtype, size)
    weight = maker.weight(problem, dtype)
    offsets = torch.tensor([0, *accumulate(problem.rows)], dtype=torch.int32, device=device)
    out_dtype = torch.bfloat16 if is_float8 else dtype
    a_scale, weight_scale = _scales(problem, a_rows, maker) if is_float8 else (None, None)
    has_order = problem.gathers or problem.combines
    order = torch.randperm(rows, generator=maker.generator, device=maker.generator.device) if has_order else None
    return Inputs(
        Product(
            a=a,
            weight=weight,
            offsets=offsets,
            order=None if order is None else order.to(device, torch.int32),
            token_weights=maker.uniform((problem.tokens, problem.top_k)) if problem.combines else None,
            bias=maker.randn((experts, problem.n), out_dtype) if problem.has_bias else None,
            a_scale=a_scale,
            weight_scale=weight_scale,
            activation=problem.activation,
            fast_accumulation=problem.fast_accumulation,
        ),
        residual=maker.randn((problem.tokens, problem.n), out_dtype) if problem.has_residual else None,
    )


def shapes_of(problem: GroupedProblem, dtype_name: str, device: torch.device) -> Product:
    """The same product with tensors that hold nothing, for a device such as "meta"."""
    experts, rows = len(problem.rows), sum(problem.rows)
    dtype = getattr(torch, dtype_name)
    is_float8 = dtype_name == FLOAT8
    a_rows = problem.tokens if problem.gathers else rows
    out_dtype = torch.bfloat16 if is_float8 else dtype
    of_a, of_weight = _scale_shapes(problem, a_rows)
    chosen = (problem.tokens, problem.top_k)
    integers = {"dtype": torch.int32, "device": device}
    return Product(
        a=torch.empty(a_rows, problem.k, dtype=dtype, device=device),
        weight=_packed_shape(problem, device)
        if problem.is_mxfp4
        else torch.empty(experts, problem.n, problem.k, dtype=dtype, device=device),
        offsets=torch.empty(experts + 1, **integers),
        order=torch.empty(rows, **integers) if problem.gathers or problem.combines else None,
        token_weights=torch.empty(chosen, device=device) if problem.combines else None,
        bias=torch.empty(experts, problem.n, dtype=out_dtype, device=device) if problem.has_bias else None,
        a_scale=torch.empty(of_a, device=device) if is_float8 else None,
        weight_scale=torch.empty(of_weight, device=device) if is_float8 else None,
        activation=problem.activation,
        fast_accumulation=problem.fast_accumulation,
    )


def _packed_shape(problem: GroupedProblem, device: torch.device) -> PackedWeight:
    rows = (len(problem.rows), chunks(problem.k), problem.n)
    words = torch.empty(*rows, WORDS, dtype=torch.int16, device=device)
    return PackedWeight(words, torch.empty(rows, dtype=torch.int32, device=device), problem.k, "mxfp4")


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the tensors of one problem from one stream of random numbers."""

    generator: torch.Generator
    device: torch.device
    poisoned: bool

    def randn(self, shape: Sequence[int], dtype: torch.dtype, size: float = 1.0) -> Tensor:
        """A normal tensor, inside NaN if poisoned."""
        if self.poisoned:
            tensor = guarded_empty(shape, dtype, self.device).view
        else:
            tensor = torch.empty(tuple(shape), dtype=dtype, device=self.device)
        # One expert at a time: fp32 numbers of a whole weight need not fit beside it.
        for part in tensor if tensor.dim() == 3 else (tensor,):
            part.copy_(torch.randn(part.shape, generator=self.generator, device=self.generator.device) * size)
        return tensor

    def weight(self, problem: GroupedProblem, dtype: torch.dtype) -> Tensor | PackedWeight:
        """One of normal numbers, or random codes in mxfp4, which lie without gaps: nothing around them is poisoned."""
        shape = (len(problem.rows), problem.n, problem.k)
        if not problem.is_mxfp4:
            return self.randn(shape, dtype)
        return random_weight(shape, "mxfp4", self.generator.device, self.generator).to(self.device)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Numbers from 0 to 1 in fp32."""
        return torch.rand(tuple(shape), generator=self.generator, device=self.generator.device).to(self.device)


def _scales(problem: GroupedProblem, a_rows: int, maker: _Maker) -> tuple[Tensor, Tensor]:
    of_a, of_weight = (maker.uniform(shape) + 0.5 for shape in _scale_shapes(problem, a_rows))
    return of_a * problem.k**-0.5, of_weight


def _scale_shapes(problem: GroupedProblem, a_rows: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Those of a and of the weight."""
    experts = len(problem.rows)
    if problem.scales == "tensor":
        return (1,), (experts,)
    if problem.scales == "channel":
        return (a_rows,), (experts, problem.n)
    blocks = problem.k // SCALE_BLOCK
    return (a_rows, blocks), (experts, weight_scale_rows(problem.n, is_gated=problem.is_gated), blocks)
