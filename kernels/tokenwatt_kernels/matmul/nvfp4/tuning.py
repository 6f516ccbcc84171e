"""A matmul of NVFP4 numbers as `tune` measures it: a small sibling for the gate, and launches with any tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from tokenwatt_kernels.matmul.nvfp4.call import run
from tokenwatt_kernels.matmul.nvfp4.inputs import random_operands
from tokenwatt_kernels.matmul.nvfp4.kernel import nvfp4_kernel
from tokenwatt_kernels.matmul.nvfp4.problems import Nvfp4Problem
from tokenwatt_kernels.matmul.parts import combine_kernel
from tokenwatt_kernels.matmul.split_tile import SplitTile

KERNELS = (nvfp4_kernel, combine_kernel)
MOST_ROWS, MOST_COLUMNS, MOST_TERMS = 300, 784, 1280
"""Columns are a multiple of 16, so that the kernel is compiled as for a real problem, but not of any tile."""


def sibling(problem: Nvfp4Problem) -> Nvfp4Problem:
    """The same kind of matmul, small enough for the gate."""
    return replace(
        problem,
        name="sibling",
        m=min(problem.m, MOST_ROWS),
        n=min(problem.n, MOST_COLUMNS),
        k=min(problem.k, MOST_TERMS),
    )


def launcher(problem: Nvfp4Problem, dtype_name: str, device: torch.device) -> Callable[[SplitTile], object]:
    """Runs the kernel on one set of random tensors, with any tile."""
    operands = random_operands(problem, device)
    out = operands.new_out()
    return lambda tile: run(operands, out, tile)
