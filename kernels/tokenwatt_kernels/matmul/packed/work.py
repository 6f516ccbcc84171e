"""Work of a matmul with a packed weight."""

from __future__ import annotations

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.packed.formats import bytes_of
from tokenwatt_kernels.matmul.packed.problems import PackedProblem
from tokenwatt_kernels.work import Work


def work(problem: PackedProblem, dtype_name: str) -> Work:
    """M * N dot products of K multiplications and K additions.

    a, codes, scales, bias and residual are read once, as small as their formats are, and the output is written once.
    Neither unpacking nor the epilogue is counted.
    """
    m, n, k = problem.m, problem.n, problem.k
    ends = m * problem.out_columns * (2 if problem.has_residual else 1) + (n if problem.has_bias else 0)
    return Work(
        flop=2 * m * n * k, bytes=bytes_of(problem.number_format, n, k) + (m * k + ends) * DTYPES[dtype_name].bytes
    )
