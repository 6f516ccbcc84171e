"""NVFP4 matmul problems made of random numbers: poisoned all around for the gate, plain for the bench."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels.arguments import FLOAT8
from tokenwatt_kernels.matmul.nvfp4.operands import OUT_DTYPE, Nvfp4Operands
from tokenwatt_kernels.matmul.nvfp4.problems import GROUP, Nvfp4Problem
from tokenwatt_kernels.testing import guarded_empty


def guarded_operands(problem: Nvfp4Problem, device: torch.device, seed: int = 0) -> Nvfp4Operands:
    """Random codes in every place and random scales inside NaN, the same on every device.

    Codes have no NaN: around them they are 6, and their scales are NaN.
    """
    operands = _random(problem, torch.device("cpu"), seed)

    def guard(values: Tensor) -> Tensor:
        view = guarded_empty(values.shape, values.dtype, device).view
        view.copy_(values)
        return view

    return Nvfp4Operands(
        _inside_sixes(operands.a, device),
        _inside_sixes(operands.weight, device),
        guard(operands.a_scale),
        guard(operands.weight_scale),
        operands.a_tensor_scale.to(device),
        operands.weight_tensor_scale.to(device),
        None if operands.bias is None else guard(operands.bias),
        None if operands.residual is None else guard(operands.residual),
        problem.activation,
    )


def random_operands(problem: Nvfp4Problem, device: torch.device) -> Nvfp4Operands:
    """Random codes in every place and random scales."""
    return _random(problem, device, 0)


def _inside_sixes(codes: Tensor, device: torch.device) -> Tensor:
    """Codes with rows before and after them, and slack after each row, of 6 alone: code 7 twice in a byte."""
    rows, columns = codes.shape
    around = torch.full((rows + 4, columns + 16), 0x77, dtype=torch.uint8, device=device)
    inside = around[2 : 2 + rows, :columns]
    inside.copy_(codes)
    return inside


def _random(problem: Nvfp4Problem, device: torch.device, seed: int) -> Nvfp4Operands:
    generator = torch.Generator(device).manual_seed(seed)

    def codes(rows: int) -> Tensor:
        shape = (rows, problem.k // 2)
        return torch.randint(0, 256, shape, generator=generator, device=device, dtype=torch.uint8)

    def scales(rows: int) -> Tensor:
        return (torch.rand(rows, problem.k // GROUP, generator=generator, device=device) + 0.1).to(FLOAT8)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(OUT_DTYPE)

    return Nvfp4Operands(
        codes(problem.m),
        codes(problem.n),
        scales(problem.m),
        scales(problem.n),
        torch.full((1,), 0.25, device=device),
        torch.full((1,), 3.0, device=device),
        numbers(problem.n) if problem.has_bias else None,
        numbers(problem.m, problem.out_columns) if problem.has_residual else None,
        problem.activation,
    )
