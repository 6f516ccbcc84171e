"""Work of attention."""

from __future__ import annotations

from tokenwatt_kernels.attention.problem import AttentionProblem
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.work import Work

INT32_BYTES = 4


def work(problem: AttentionProblem, dtype_name: str) -> Work:
    """Each meeting of a query head with a key that it sees costs 2 * D flop in q.k and 2 * Dv in p.v.

    Bytes count the keys that some query sees, not the unused slots of a last page, plus the queries, the answer, and
    for paged keys the context lengths and the block-table entries of the pages that hold those keys.
    """
    dtype = DTYPES[dtype_name]
    kv_bytes = dtype.bytes if problem.kv_dtype is None else DTYPES[problem.kv_dtype].bytes
    widths = problem.head_dim + problem.values
    stored = problem.head_dim if problem.is_latent else widths
    tokens = sum(problem.queries)
    needed = problem.needed_keys()
    pages = sum(-(-keys // problem.page_size) for keys in needed) if problem.page_size else 0
    indices = len(problem.contexts) + pages if problem.page_size else 0
    return Work(
        flop=2 * problem.visible_keys() * problem.query_heads * widths,
        bytes=(
            tokens * problem.query_heads * (problem.head_dim * dtype.bytes + problem.values * dtype.out_bytes)
            + sum(needed) * problem.kv_heads * stored * kv_bytes
            + indices * INT32_BYTES
        ),
    )
