"""Matmul problems made of random numbers: poisoned all around for the gate, plain for the bench."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.operands import Operands
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.testing import guarded_randn

Draw = Callable[[Sequence[int], torch.dtype], Tensor]


def guarded_operands(problem: MatmulProblem, dtype_name: str, device: torch.device, seed: int = 0) -> Operands:
    """Standard normal operands inside NaN, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return _operands(problem, dtype_name, lambda shape, dtype: guarded_randn(shape, dtype, device, generator))


def random_operands(problem: MatmulProblem, dtype_name: str, device: torch.device) -> Operands:
    """Standard normal operands: zeros would draw less power, and so run faster."""
    generator = torch.Generator(device).manual_seed(0)
    return _operands(
        problem,
        dtype_name,
        lambda shape, dtype: torch.randn(tuple(shape), generator=generator, device=device).to(dtype),
    )


def _operands(problem: MatmulProblem, dtype_name: str, draw: Draw) -> Operands:
    dtype, out_dtype = getattr(torch, dtype_name), getattr(torch, DTYPES[dtype_name].out_name)
    operands = Operands(
        draw((problem.m, problem.k), dtype),
        draw((problem.n, problem.k), dtype),
        draw((problem.n,), out_dtype) if problem.has_bias else None,
        draw((problem.m, problem.out_columns), out_dtype) if problem.has_residual else None,
        activation=problem.activation,
        fast_accumulation=problem.fast_accumulation,
    )
    if problem.scaling == "none":
        return operands
    a_scale, weight_scale = (_scales(draw, shape) for shape in problem.scale_shapes)
    return replace(operands, a_scale=a_scale, weight_scale=weight_scale)


def _scales(draw: Draw, shape: Sequence[int]) -> Tensor:
    """Positive and of different sizes, as scales are."""
    scales = draw(shape, torch.float32)
    return scales.abs_().add_(0.1)
