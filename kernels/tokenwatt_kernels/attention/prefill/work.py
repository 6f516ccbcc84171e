"""Work of causal prefill attention."""

from __future__ import annotations

from tokenwatt_kernels.attention.prefill.problems import PrefillProblem
from tokenwatt_kernels.work import Work


def work(problem: PrefillProblem, element_bytes: int) -> Work:
    """Causal work: row i of a sequence meets i + 1 keys, and each meeting costs 2*D flop in q.k and 2*D in p.v."""
    meetings = sum(length * (length + 1) // 2 for length in problem.lengths)
    tokens = sum(problem.lengths)
    q_and_out = 2 * tokens * problem.query_heads * problem.head_dim
    k_and_v = 2 * tokens * problem.kv_heads * problem.head_dim
    return Work(
        flop=4 * meetings * problem.query_heads * problem.head_dim,
        bytes=(q_and_out + k_and_v) * element_bytes,
    )
