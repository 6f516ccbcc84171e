"""Work of a dense matmul."""

from __future__ import annotations

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.dense.problems import MatmulProblem
from tokenwatt_kernels.work import Work


def work(problem: MatmulProblem, dtype_name: str) -> Work:
    """M * N dot products of K multiplications and K additions; a, the weight and the output cross memory once."""
    m, n, k = problem.m, problem.n, problem.k
    return Work(flop=2 * m * n * k, bytes=(m * k + n * k + m * n) * DTYPES[dtype_name].bytes)
