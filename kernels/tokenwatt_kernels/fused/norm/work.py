"""Work of an RMS normalisation."""

from __future__ import annotations

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.fused.norm.problems import NormProblem
from tokenwatt_kernels.work import Work

FP32_BYTES = 4


def work(problem: NormProblem, dtype_name: str) -> Work:
    """Each element is squared, added up and multiplied twice; with a residual it is added, and with scales multiplied.
    What is not normed is only multiplied.

    x, the weight and the answer cross memory once, the residual twice.
    """
    rows = problem.rows * max(problem.heads, 1)
    elements = rows * problem.width
    size = DTYPES[dtype_name].bytes
    is_quantised = problem.scales != "none"
    scales = {"none": 0, "tensor": 1}.get(problem.scales, rows * problem.scales_per_row)
    return Work(
        flop=elements * (4 * problem.has_norm + problem.has_residual + is_quantised),
        bytes=(
            elements * size * (3 if problem.has_residual else 1)
            + elements * (1 if is_quantised else size)
            + problem.has_norm * problem.width * size
            + scales * FP32_BYTES
        ),
    )
