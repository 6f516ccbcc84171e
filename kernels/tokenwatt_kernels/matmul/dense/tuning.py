"""Dense matmul as `tune` measures it: a small sibling of a problem for the gate, and launches with any tile."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tokenwatt_kernels.matmul.dense.kernel import launch, matmul_kernel
from tokenwatt_kernels.matmul.dense.problems import MatmulProblem
from tokenwatt_kernels.matmul.dense.tiles import MatmulTile

KERNELS = (matmul_kernel,)
MOST_ROWS, MOST_COLUMNS, MOST_TERMS = 400, 784, 1040
"""Multiples of 16, so that the kernel is compiled as for a real problem, but not of any tile."""


def sibling(problem: MatmulProblem) -> MatmulProblem:
    """The same kind of matmul, small enough for the gate."""
    return MatmulProblem("sibling", min(problem.m, MOST_ROWS), min(problem.n, MOST_COLUMNS), min(problem.k, MOST_TERMS))


def launcher(problem: MatmulProblem, dtype_name: str, device: torch.device) -> Callable[[MatmulTile], None]:
    """Runs the kernel on one set of random tensors, with any tile."""
    dtype = getattr(torch, dtype_name)
    generator = torch.Generator(device).manual_seed(0)
    a = torch.randn(problem.m, problem.k, generator=generator, device=device, dtype=dtype)
    weight = torch.randn(problem.n, problem.k, generator=generator, device=device, dtype=dtype)
    out = torch.empty(problem.m, problem.n, dtype=dtype, device=device)
    return lambda tile: launch(a, weight, out, tile)
