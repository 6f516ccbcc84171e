"""Work of a choice of tokens."""

from __future__ import annotations

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.fused.top_k.problems import TopKProblem
from tokenwatt_kernels.work import Work

WORD_BYTES = 4


def work(problem: TopKProblem, dtype_name: str) -> Work:
    """A logit is compared, shifted, raised and added: four flop, one more each for a softcap and a temperature.

    Logits are read once; values, indices and the log-sum-exp are written.
    """
    logits = problem.rows * problem.vocabulary
    outputs = problem.rows * (2 * problem.k + 1 + problem.has_temperature)
    return Work(
        flop=logits * (4 + (problem.softcap is not None) + problem.has_temperature),
        bytes=logits * DTYPES[dtype_name].bytes + outputs * WORD_BYTES,
    )
