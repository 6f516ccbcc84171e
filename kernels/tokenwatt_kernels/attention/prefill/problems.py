"""Shapes of prefill attention: small odd ones for the gate, real ones for the bench."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PrefillProblem:
    """A packed batch of prompts. `lengths` holds the tokens of each sequence; zero is allowed."""

    name: str
    lengths: tuple[int, ...]
    query_heads: int
    kv_heads: int
    head_dim: int

    @property
    def terms(self) -> int:
        """Terms in the longest sum: over a context in p.v, or over the head dimension in q.k."""
        return max(*self.lengths, self.head_dim)


GATE_PROBLEMS = (
    PrefillProblem("one_token", (1,), query_heads=1, kv_heads=1, head_dim=16),
    PrefillProblem("odd_lengths", (17, 1, 63), query_heads=2, kv_heads=2, head_dim=16),
    PrefillProblem("group_3", (129,), query_heads=3, kv_heads=1, head_dim=16),
    PrefillProblem("head_dim_64", (40,), query_heads=1, kv_heads=1, head_dim=64),
    PrefillProblem("group_4_with_empty", (33, 0, 16), query_heads=4, kv_heads=1, head_dim=32),
    PrefillProblem("group_8", (31,), query_heads=8, kv_heads=1, head_dim=32),
)

GPU_GATE_PROBLEMS = (
    PrefillProblem("tiles_hd64", (1, 127, 128, 129, 1000), query_heads=6, kv_heads=2, head_dim=64),
    PrefillProblem("tiles_hd128", (513, 1, 256, 777), query_heads=8, kv_heads=2, head_dim=128),
    PrefillProblem("tiles_hd256", (300, 65), query_heads=4, kv_heads=1, head_dim=256),
)

BENCH_PROBLEMS = (
    PrefillProblem("llama3.1-8b_b8_s1024", (1024,) * 8, query_heads=32, kv_heads=8, head_dim=128),
    PrefillProblem("llama3.1-8b_b2_s4096", (4096,) * 2, query_heads=32, kv_heads=8, head_dim=128),
    PrefillProblem("llama3.1-8b_b1_s8192", (8192,), query_heads=32, kv_heads=8, head_dim=128),
    PrefillProblem("llama3.1-70b_b1_s8192", (8192,), query_heads=64, kv_heads=8, head_dim=128),
    PrefillProblem("hd64_b1_s8192", (8192,), query_heads=32, kv_heads=8, head_dim=64),
)
