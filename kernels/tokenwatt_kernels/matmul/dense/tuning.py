"""Dense matmul as `tune` measures it: a small sibling of a problem for the gate, and launches with any tile."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tokenwatt_kernels.matmul import tuning
from tokenwatt_kernels.matmul.dense.kernel import matmul_kernel
from tokenwatt_kernels.matmul.dense.tiles import FAMILY
from tokenwatt_kernels.matmul.problem import MatmulProblem

KERNELS = (matmul_kernel,)
MOST_ROWS, MOST_COLUMNS, MOST_TERMS = 400, 784, 1040
"""Multiples of 16, so that the kernel is compiled as for a real problem, but not of any tile."""


def sibling(problem: MatmulProblem) -> MatmulProblem:
    """The same kind of matmul, small enough for the gate."""
    return replace(
        problem,
        name="sibling",
        m=min(problem.m, MOST_ROWS),
        n=min(problem.n, MOST_COLUMNS),
        k=min(problem.k, MOST_TERMS),
    )


launcher = partial(tuning.launcher, FAMILY)
