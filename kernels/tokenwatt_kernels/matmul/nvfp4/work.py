"""Work of a matmul of NVFP4 numbers."""

from __future__ import annotations

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.nvfp4.problems import GROUP, Nvfp4Problem
from tokenwatt_kernels.work import Work

TENSOR_SCALE_BYTES = 4


def work(problem: Nvfp4Problem, dtype_name: str) -> Work:
    """M * N dot products of K multiplications and K additions.

    Codes, scales, bias and residual are read once, and the output, of `dtype_name`, is written once.
    """
    m, n, k = problem.m, problem.n, problem.k
    numbers = (m + n) * (k // 2 + k // GROUP) + 2 * TENSOR_SCALE_BYTES
    ends = m * problem.out_columns * (2 if problem.has_residual else 1) + (n if problem.has_bias else 0)
    return Work(flop=2 * m * n * k, bytes=numbers + ends * DTYPES[dtype_name].bytes)
