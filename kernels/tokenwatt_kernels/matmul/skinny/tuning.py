"""Matmul of few rows as `tune` measures it: a small sibling of a problem for the gate, and launches with any tile."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tokenwatt_kernels.matmul import tuning
from tokenwatt_kernels.matmul.parts import combine_kernel
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.matmul.skinny.kernel import split_kernel
from tokenwatt_kernels.matmul.skinny.tiles import FAMILY

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


launcher = partial(tuning.launcher, FAMILY)
