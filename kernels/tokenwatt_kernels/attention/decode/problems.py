"""Shapes of decode attention: small odd ones for the gate, real ones for the bench."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenwatt_kernels.attention.problem import AttentionProblem, takes

__all__ = ["takes"]

DTYPE_NAMES = ("float32", "float16", "bfloat16")


def tokens(
    name: str, contexts: Sequence[int], query_heads: int, kv_heads: int, head_dim: int, *, queries: int = 1,
    page_size: int = 16, **options: Any,
) -> AttentionProblem:  # fmt: skip
    """The last `queries` tokens of each context."""
    return AttentionProblem(
        name, (queries,) * len(contexts), tuple(contexts), query_heads, kv_heads, head_dim, page_size=page_size,
        **options,
    )  # fmt: skip


def latents(
    name: str, contexts: Sequence[int], query_heads: int, head_dim: int, value_dim: int, **options: Any
) -> AttentionProblem:
    """Multi-head latent attention: one latent per token is the key and, in its first value_dim elements, the value."""
    return tokens(name, contexts, query_heads, 1, head_dim, value_dim=value_dim, is_latent=True, **options)


GATE_PROBLEMS = (
    tokens("page_boundaries", (1, 15, 16, 17), 2, 2, 16, checks_lse=True),
    tokens("group_3_with_empty", (0, 129), 6, 2, 64),
    tokens("group_4_page_24", (63, 25), 4, 1, 32, page_size=24),
    tokens("group_8", (70,), 8, 1, 128),
    tokens("group_20", (40, 33), 20, 1, 16, page_size=32),
    tokens("all_empty", (0, 0), 2, 1, 16, checks_lse=True),
    tokens("empty_but_sinks", (0, 20, 0), 2, 1, 16, has_sinks=True, checks_lse=True),
    tokens("page_1", (9, 4), 2, 1, 16, page_size=1),
    tokens("page_256", (300, 5, 256), 2, 1, 16, page_size=256),
    tokens("head_dim_96", (23, 40), 2, 1, 96),
    tokens("window_7", (70, 5, 33), 2, 1, 16, window=7, checks_lse=True),
    tokens("window_7_page_32", (70, 5, 33), 2, 1, 16, page_size=32, window=7),
    tokens("window_40_page_64_verify_2", (100, 97, 40), 4, 2, 16, queries=2, page_size=64, window=40),
    tokens("window_40_sinks", (97, 12), 8, 2, 16, window=40, has_sinks=True, checks_lse=True),
    tokens("softcap", (35,), 2, 1, 16, softcap=2.0),
    tokens("verify_4", (41, 16, 4), 4, 2, 16, queries=4, checks_lse=True),
    tokens("verify_8_of_fewer", (3, 50), 6, 2, 16, queries=8, checks_lse=True),
    tokens("verify_20_of_18", (18,), 1, 1, 16, queries=20, checks_lse=True),
    tokens("verify_3_window", (60, 33), 2, 1, 16, queries=3, window=10),
    tokens("float8", (70, 18), 4, 2, 32, kv_dtype="float8_e4m3fn"),
    tokens("float8_head_scales", (70, 18), 4, 2, 32, kv_dtype="float8_e4m3fn", scales="head", page_size=32),
    tokens("long_contexts", (463, 1328), 2, 1, 16, checks_lse=True),
    # 32,768 pages of 256 * 4 * 64 = 2^16 elements before the first live one: it begins at element 2^31.
    tokens("page_32768", (40, 1), 8, 4, 64, page_size=256, spare_pages=32_768),
    tokens("many_sequences", tuple(1 + index % 7 for index in range(300)), 1, 1, 16),
    latents("latent", (41, 8), 20, 48, 32, page_size=32),
    latents("latent_verify_2", (41, 2), 4, 48, 32, queries=2),
)

GPU_GATE_PROBLEMS = (
    tokens("many_parts", (4097, 1, 0, 1000), 8, 2, 128, checks_lse=True),
    tokens("issue_lengths", (1, 63, 129, 463, 1328), 32, 8, 128, page_size=64, checks_lse=True),
    tokens("group_32", (700, 333), 32, 1, 64, page_size=1),
    tokens("hd256", (2048, 130), 8, 4, 256, page_size=128),
    tokens("hd96", (2048, 130), 32, 32, 96),
    tokens("big_batch", tuple(1 + 37 * index % 900 for index in range(600)), 8, 2, 64, page_size=32),
    tokens("window_sinks", (4000, 100, 1), 64, 8, 64, window=128, has_sinks=True, checks_lse=True),
    tokens("verify_8", (2048, 130, 9), 32, 8, 128, queries=8),
    tokens("float8_long", (2048, 130), 32, 8, 128, kv_dtype="float8_e4m3fn", scales="head"),
    latents("deepseek_v3", (700, 65), 128, 576, 512, page_size=64),
)

BENCH_PROBLEMS = (
    tokens("llama3.1-8b_b1_ctx8192", (8192,), 32, 8, 128),
    tokens("llama3.1-8b_b32_ctx1024", (1024,) * 32, 32, 8, 128),
    tokens("llama3.1-8b_b32_ctx4096", (4096,) * 32, 32, 8, 128),
    tokens("llama3.1-8b_b32_ctx4096_page64", (4096,) * 32, 32, 8, 128, page_size=64),
    tokens("llama3.1-8b_b32_ctx4096_fp8kv", (4096,) * 32, 32, 8, 128, kv_dtype="float8_e4m3fn"),
    tokens("llama3.1-8b_b128_ctx2048", (2048,) * 128, 32, 8, 128),
    tokens("llama3.1-70b_b32_ctx4096", (4096,) * 32, 64, 8, 128),
    tokens("group8_b1_ctx32768", (32768,), 32, 4, 128, page_size=64),
    tokens("group8_b1_ctx131072", (131072,), 32, 4, 128, page_size=64),
    tokens("llama3.1-8b_b32_ctx4096_verify4", (4096,) * 32, 32, 8, 128, queries=4),
    tokens("gpt-oss_b32_ctx8192_window", (8192,) * 32, 64, 8, 64, window=128, has_sinks=True),
    latents("deepseek-v3_b64_ctx4096", (4096,) * 64, 128, 576, 512, page_size=64),
)
