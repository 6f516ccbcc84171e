"""Shapes of decode attention: small odd ones for the gate, real ones for the bench."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DecodeProblem:
    """A batch of sequences with one new token each. `context_lens` counts cached tokens, the new one included.

    spare_pages: pages in the pool that belong to no sequence; they push the live ones to high page numbers.
    """

    name: str
    context_lens: tuple[int, ...]
    query_heads: int
    kv_heads: int
    head_dim: int
    page_size: int = 16
    spare_pages: int = 3

    @property
    def terms(self) -> int:
        """Terms in the longest sum: over a context in p.v, or over the head dimension in q.k."""
        return max(*self.context_lens, self.head_dim)


GATE_PROBLEMS = (
    DecodeProblem("page_boundaries", (1, 15, 16, 17), query_heads=2, kv_heads=2, head_dim=16),
    DecodeProblem("group_3_with_empty", (0, 129), query_heads=6, kv_heads=2, head_dim=64),
    DecodeProblem("group_4_page_24", (63, 25), query_heads=4, kv_heads=1, head_dim=32, page_size=24),
    DecodeProblem("group_8", (70,), query_heads=8, kv_heads=1, head_dim=128),
    DecodeProblem("all_empty", (0, 0), query_heads=2, kv_heads=1, head_dim=16),
)

GPU_GATE_PROBLEMS = (
    DecodeProblem("many_splits", (4097, 1, 0, 1000), query_heads=8, kv_heads=2, head_dim=128),
    DecodeProblem("group_32", (700, 333), query_heads=32, kv_heads=1, head_dim=64, page_size=1),
    DecodeProblem("hd256", (2048, 130), query_heads=8, kv_heads=4, head_dim=256, page_size=128),
)

BENCH_PROBLEMS = (
    DecodeProblem("llama3.1-8b_b1_ctx8192", (8192,), query_heads=32, kv_heads=8, head_dim=128),
    DecodeProblem("llama3.1-8b_b32_ctx1024", (1024,) * 32, query_heads=32, kv_heads=8, head_dim=128),
    DecodeProblem("llama3.1-8b_b32_ctx4096", (4096,) * 32, query_heads=32, kv_heads=8, head_dim=128),
    DecodeProblem("llama3.1-8b_b128_ctx2048", (2048,) * 128, query_heads=32, kv_heads=8, head_dim=128),
    DecodeProblem("llama3.1-70b_b32_ctx4096", (4096,) * 32, query_heads=64, kv_heads=8, head_dim=128),
)
