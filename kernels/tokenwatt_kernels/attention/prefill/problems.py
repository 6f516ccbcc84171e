"""Shapes of prefill attention: small odd ones for the gate, real ones for the bench."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenwatt_kernels.attention.problem import AttentionProblem, takes

__all__ = ["takes"]

DTYPE_NAMES = ("float32", "float16", "bfloat16", "float8_e4m3fn")


def prompts(
    name: str, lengths: Sequence[int], query_heads: int, kv_heads: int, head_dim: int, **options: Any
) -> AttentionProblem:
    """Whole prompts: as many keys as queries."""
    return AttentionProblem(name, tuple(lengths), tuple(lengths), query_heads, kv_heads, head_dim, **options)


def chunks(
    name: str, queries: Sequence[int], contexts: Sequence[int], query_heads: int, kv_heads: int, head_dim: int,
    **options: Any,
) -> AttentionProblem:  # fmt: skip
    """The last `queries` of each context."""
    return AttentionProblem(name, tuple(queries), tuple(contexts), query_heads, kv_heads, head_dim, **options)


GATE_PROBLEMS = (
    prompts("one_token", (1,), 1, 1, 16, checks_lse=True),
    prompts("odd_lengths", (17, 1, 63), 2, 2, 16, checks_lse=True),
    prompts("odd_lengths_wide", (17, 1, 63), 2, 2, 32, checks_lse=True),
    prompts("group_3", (129,), 3, 1, 16),
    prompts("group_8_head_scales", (31,), 16, 2, 32, scales="head"),
    prompts("head_dim_64", (40,), 1, 1, 64),
    prompts("head_dim_96", (23, 10), 2, 1, 96),
    prompts("keys_48_values_32", (37,), 2, 1, 48, value_dim=32, checks_lse=True),
    prompts("group_4_with_empty", (33, 0, 16), 4, 1, 32),
    prompts("not_causal", (33, 7), 2, 1, 16, causal=False),
    prompts("window_7", (70, 5), 2, 1, 16, window=7, checks_lse=True),
    prompts("window_40_sinks", (97,), 4, 2, 16, window=40, has_sinks=True, checks_lse=True),
    prompts("softcap", (35,), 2, 1, 16, softcap=2.0),
    chunks("chunks", (5, 16, 1, 0), (21, 16, 40, 3), 4, 2, 16),
    chunks("chunks_not_causal", (5, 9), (50, 3), 2, 1, 16, causal=False),
    chunks("chunks_window", (9, 20), (80, 33), 2, 1, 16, window=17),
    chunks("long_context", (2,), (1328,), 1, 1, 16),
    chunks("nothing_seen", (9, 3), (4, 0), 2, 1, 16, checks_lse=True),
    chunks("nothing_seen_but_sinks", (9, 3), (4, 0), 2, 1, 16, has_sinks=True, checks_lse=True),
    chunks("pages_of_16", (5, 16, 33), (21, 16, 40), 4, 2, 16, page_size=16),
    chunks("pages_of_24", (5, 30), (63, 48), 2, 1, 32, page_size=24),
    chunks("pages_of_64", (5, 65), (128, 65), 2, 1, 16, page_size=64, window=50),
    chunks("pages_of_1", (3, 4), (9, 4), 2, 1, 16, page_size=1),
    chunks("pages_keys_48_values_32", (20,), (41,), 2, 1, 48, value_dim=32, page_size=32),
    chunks("end_of_463_in_pages", (3,), (463,), 2, 1, 16, page_size=16),
    # 32,768 pages of 256 * 4 * 64 = 2^16 elements before the first live one: it begins at element 2^31.
    chunks("page_32768", (9,), (40,), 8, 4, 64, page_size=256, spare_pages=32_768),
    chunks("float8_pages", (5, 30), (63, 48), 4, 2, 32, page_size=16, kv_dtype="float8_e4m3fn", scales="head"),
)

GPU_GATE_PROBLEMS = (
    prompts("tiles_hd64", (1, 63, 127, 128, 129, 463, 1328), 6, 2, 64, checks_lse=True),
    prompts("tiles_hd96", (513, 1, 256), 8, 2, 96),
    prompts("tiles_hd128", (513, 1, 256, 777), 8, 2, 128, checks_lse=True),
    prompts("tiles_hd256", (300, 65), 4, 1, 256),
    prompts("tiles_192_128", (463, 129), 4, 4, 192, value_dim=128),
    prompts("tiles_not_causal", (463, 129), 8, 2, 128, causal=False),
    prompts("tiles_window_sinks", (1328, 300), 8, 1, 64, window=128, has_sinks=True, checks_lse=True),
    prompts("tiles_softcap", (700,), 8, 4, 256, softcap=50.0),
    chunks("tiles_chunks", (1, 5, 129), (1328, 18, 463), 8, 2, 128, page_size=16),
    chunks("tiles_chunks_long_pages", (1, 5, 129), (1328, 18, 463), 8, 2, 128, page_size=256),
    chunks("tiles_chunks_window", (700, 37), (2011, 37), 5, 1, 128, page_size=64, window=256),
)

BENCH_PROBLEMS = (
    prompts("llama3.1-8b_b8_s1024", (1024,) * 8, 32, 8, 128),
    prompts("llama3.1-8b_b2_s4096", (4096,) * 2, 32, 8, 128),
    prompts("llama3.1-70b_b1_s8192", (8192,), 64, 8, 128),
    prompts("llama3.1-70b_b1_s16384", (16384,), 64, 8, 128),
    prompts("llama3.1-70b_b1_s8192_not_causal", (8192,), 64, 8, 128, causal=False),
    prompts("hd64_b1_s8192", (8192,), 32, 8, 64),
    prompts("hd256_b1_s8192", (8192,), 16, 8, 256),
    prompts("phi3-mini_b1_s4096", (4096,), 32, 32, 96),
    prompts("deepseek-v3_b1_s4096", (4096,), 128, 128, 192, value_dim=128),
    prompts("gpt-oss_b2_s8192_window", (8192,) * 2, 64, 8, 64, window=128, has_sinks=True),
    chunks("llama3.1-8b_chunk512_ctx4096", (512,), (4096,), 32, 8, 128),
    chunks("llama3.1-8b_b4_chunk512_ctx4096_page16", (512,) * 4, (4096,) * 4, 32, 8, 128, page_size=16),
    chunks("llama3.1-8b_b4_chunk512_ctx4096_page128", (512,) * 4, (4096,) * 4, 32, 8, 128, page_size=128),
)
