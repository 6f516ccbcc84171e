"""Packed matmul problems made of random numbers: poisoned all around for the gate, plain for the bench."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tokenwatt_kernels.matmul.packed.operands import PackedOperands
from tokenwatt_kernels.matmul.packed.problems import PackedProblem
from tokenwatt_kernels.matmul.packed.weights import PackedWeight, arrange_int4, arrange_mxfp4
from tokenwatt_kernels.number_formats.int4 import GROUP as INT4_GROUP
from tokenwatt_kernels.number_formats.int4 import Int4
from tokenwatt_kernels.number_formats.mxfp4 import BIAS, GROUP, Mxfp4
from tokenwatt_kernels.testing import guarded_randn

Draw = Callable[[Sequence[int]], Tensor]


def guarded_operands(problem: PackedProblem, dtype_name: str, device: torch.device, seed: int = 0) -> PackedOperands:
    """Standard normal operands inside NaN, and a random weight, the same on every device.

    A weight has no slack to poison: the kernels take it in one piece.
    """
    generator, dtype = torch.Generator().manual_seed(seed), getattr(torch, dtype_name)
    weight = random_weight((problem.n, problem.k), problem.number_format, torch.device("cpu"), generator)
    weight = PackedWeight(weight.words.to(device), weight.scales.to(device), weight.terms, weight.number_format)
    return _operands(problem, weight, lambda shape: guarded_randn(shape, dtype, device, generator))


def random_operands(problem: PackedProblem, dtype_name: str, device: torch.device) -> PackedOperands:
    """Standard normal operands and a random weight."""
    generator, dtype = torch.Generator(device).manual_seed(0), getattr(torch, dtype_name)
    weight = random_weight((problem.n, problem.k), problem.number_format, device, generator)
    return _operands(
        problem, weight, lambda shape: torch.randn(tuple(shape), generator=generator, device=device).to(dtype)
    )


def random_weight(
    shape: Sequence[int], number_format: str, device: torch.device, generator: torch.Generator
) -> PackedWeight:
    """A weight [..., N, K] of random codes, zero points and scales, so that every code occurs in every place."""

    def integers(low: int, high: int, *sizes: int) -> Tensor:
        return torch.randint(low, high, sizes, generator=generator, device=device, dtype=torch.uint8)

    *rows, terms = shape
    codes = integers(0, 256, *rows, terms // 2)
    if number_format == "int4":
        groups = (*rows, terms // INT4_GROUP)
        scales = torch.rand(groups, generator=generator, device=device) * 0.1 + 0.01
        return arrange_int4(Int4(codes, scales.to(torch.bfloat16), integers(0, 16, *groups)))
    return arrange_mxfp4(Mxfp4(codes, integers(BIAS - 4, BIAS + 2, *rows, terms // GROUP)))


def _operands(problem: PackedProblem, weight: PackedWeight, draw: Draw) -> PackedOperands:
    return PackedOperands(
        draw((problem.m, problem.k)),
        weight,
        draw((problem.n,)) if problem.has_bias else None,
        draw((problem.m, problem.out_columns)) if problem.has_residual else None,
        problem.activation,
    )
