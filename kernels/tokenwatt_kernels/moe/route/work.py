"""Work of routing."""

from __future__ import annotations

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.moe.route.problems import RouteProblem
from tokenwatt_kernels.work import Work

NUMBER_BYTES = 4  # of a weight, and of every integer


def work(problem: RouteProblem, dtype_name: str) -> Work:
    """An addition for each logit, in the sum of exponentials or before the sigmoid's division; comparisons are no flop.

    The logits are read once; weight, expert, order and inverse of each row and E + 1 offsets are written once.
    """
    scores = problem.tokens * problem.experts
    bias_bytes = NUMBER_BYTES * problem.experts if problem.has_bias else 0
    numbers = 4 * problem.rows + problem.experts + 1
    return Work(flop=scores, bytes=scores * DTYPES[dtype_name].bytes + bias_bytes + NUMBER_BYTES * numbers)
