"""Work of a rotary embedding with its append."""

from __future__ import annotations

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.fused.rope.problems import RopeProblem
from tokenwatt_kernels.work import Work

FP32_BYTES, INDEX_BYTES = 4, {"int32": 4, "int64": 8}


def work(problem: RopeProblem, dtype_name: str) -> Work:
    """A rotated pair costs four multiplications and two additions, a normed element four flop, a scaled one one.

    Queries are read and written; keys and values are read, and written to the cache and where they are packed. Each
    token reads its row of both tables, its position and its slot. Every token is counted as appended.
    """
    size = DTYPES[dtype_name].bytes
    cache_size = size if problem.kv_dtype is None else DTYPES[problem.kv_dtype].bytes
    has_cache, has_scales = problem.page_size > 0, problem.kv_dtype is not None
    queries = problem.query_heads * problem.head_dim
    keys = problem.kv_heads * problem.head_dim
    values = problem.kv_heads * problem.values
    copies = size * problem.is_packed + cache_size * has_cache
    is_keyed = copies > 0
    turned = (problem.query_heads + is_keyed * problem.kv_heads) * problem.rotary
    flop = 3 * turned + 4 * problem.has_norm * (queries + is_keyed * keys) + has_scales * (keys + values)
    per_token = (
        2 * queries * size
        + is_keyed * (keys + values) * (size + copies)
        + problem.rotary * FP32_BYTES
        + (1 + has_cache) * INDEX_BYTES[problem.index_name]
    )
    shared = 2 * problem.has_norm * problem.head_dim * size
    scales = 2 * has_scales * FP32_BYTES * (problem.kv_heads if problem.scales == "head" else 1)
    return Work(flop=problem.tokens * flop, bytes=problem.tokens * per_token + shared + scales)
