"""Matmul of few rows as `tune` measures it: a small sibling of a problem for the gate, and launches with any tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from tokenwatt_kernels.matmul.inputs import random_operands
from tokenwatt_kernels.matmul.library import library_matmul
from tokenwatt_kernels.matmul.library_tile import LibraryTile
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.matmul.skinny.call import run
from tokenwatt_kernels.matmul.skinny.kernel import combine_kernel, split_kernel
from tokenwatt_kernels.matmul.skinny.tiles import AnyTile

KERNELS = (split_kernel, combine_kernel)
MOST_COLUMNS, MOST_TERMS = 784, 1040
"""Multiples of 16, so that the kernel is compiled as for a real problem, but not of any tile."""


def sibling(problem: MatmulProblem) -> MatmulProblem:
    """The same kind of matmul, small enough for the gate."""
    return replace(
        problem,
        name="sibling",
        n=min(problem.n, MOST_COLUMNS),
        k=min(problem.k, MOST_TERMS),
    )


def launcher(problem: MatmulProblem, dtype_name: str, device: torch.device) -> Callable[[AnyTile], None]:
    """Runs the kernel, or cuBLAS, on one set of random tensors, with any tile."""
    operands = random_operands(problem, dtype_name, device)
    out = operands.new_out()

    def launch(tile: AnyTile) -> None:
        if isinstance(tile, LibraryTile):
            library_matmul(operands)
        else:
            run(operands, out, tile)

    return launch
