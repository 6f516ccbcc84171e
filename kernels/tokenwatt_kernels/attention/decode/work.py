"""Work of decode attention."""

from __future__ import annotations

from tokenwatt_kernels.attention.decode.problems import DecodeProblem
from tokenwatt_kernels.work import Work

INT32_BYTES = 4


def work(problem: DecodeProblem, element_bytes: int) -> Work:
    """One query row per sequence meets every live key: 2*D flop in q.k and 2*D in p.v for each query head.

    Bytes count live tokens only, not the unused slots of the last page, plus q, the output, the context lengths and
    the block-table entries of the live pages.
    """
    live_tokens = sum(problem.context_lens)
    live_pages = sum(-(-length // problem.page_size) for length in problem.context_lens)
    batch = len(problem.context_lens)
    k_and_v = 2 * live_tokens * problem.kv_heads * problem.head_dim
    q_and_out = 2 * batch * problem.query_heads * problem.head_dim
    return Work(
        flop=4 * live_tokens * problem.query_heads * problem.head_dim,
        bytes=(k_and_v + q_and_out) * element_bytes + (batch + live_pages) * INT32_BYTES,
    )
