"""Work of a grouped matmul."""

from __future__ import annotations

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.packed.formats import bytes_of
from tokenwatt_kernels.matmul.scaling import BLOCK as SCALE_BLOCK
from tokenwatt_kernels.matmul.scaling import weight_scale_rows
from tokenwatt_kernels.moe.grouped.problems import FLOAT8, GroupedProblem
from tokenwatt_kernels.work import Work

NUMBER_BYTES = 4  # of a factor, and of every integer


def work(problem: GroupedProblem, dtype_name: str) -> Work:
    """K multiplications and additions for each column of each row; activations and the sum over slots are not counted.

    The weights of experts that have rows are read once, each token (or sorted row) is read once, and every output is
    written once: what lies between product and sum is avoidable.
    """
    dtype, rows = DTYPES[dtype_name], sum(problem.rows)
    read_rows = problem.tokens if problem.gathers else rows
    weight = bytes_of("mxfp4", problem.n, problem.k) if problem.is_mxfp4 else problem.n * problem.k * dtype.bytes
    outputs = problem.tokens * problem.n if problem.combines else rows * problem.out_columns
    outputs *= 2 if problem.has_residual else 1
    biases = problem.touched * problem.n if problem.has_bias else 0
    numbers = len(problem.rows) + 1
    numbers += rows if problem.gathers else 2 * rows if problem.combines else 0
    if dtype_name == FLOAT8:
        numbers += _scales(problem, read_rows)
    inputs = read_rows * problem.k * dtype.bytes + problem.touched * weight
    return Work(
        flop=2 * rows * problem.n * problem.k,
        bytes=inputs + (outputs + biases) * dtype.out_bytes + numbers * NUMBER_BYTES,
    )


def _scales(problem: GroupedProblem, read_rows: int) -> int:
    if problem.scales == "tensor":
        return 1 + problem.touched
    if problem.scales == "channel":
        return read_rows + problem.touched * problem.n
    blocks = problem.k // SCALE_BLOCK
    return blocks * (read_rows + problem.touched * weight_scale_rows(problem.n, is_gated=problem.is_gated))
