"""Shapes of rotary embeddings: small odd ones for the gate, real ones for the bench."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DTYPE_NAMES = ("float32", "float16", "bfloat16")
FLOAT8 = "float8_e4m3fn"
ADDITIONS = 64
"""The most additions on the way to one output, with a norm of heads before."""


@dataclass(frozen=True, slots=True)
class RopeProblem:
    """New tokens with query_heads and kv_heads of head_dim, and what happens to them.

    value_dim, rotary_dim: None means head_dim.
    has_norm: queries and keys are normed before. unit_offset: by 1 + weight.
    is_packed: rotated keys and values are wanted as tensors too.
    page_size: 0 means no cache.
    kv_dtype: torch name of the cache's dtype; None means that of the queries.
    scales: whether a float8 cache has one scale each for keys and values, or one for each KV head.
    skipped: every third token is not appended.
    spare_pages: before the pages that are written.
    index_name: torch name of the dtype of positions and slots.
    is_latent: values and keys lie in one cache row, the values first (MLA).
    """

    name: str
    tokens: int
    query_heads: int
    kv_heads: int
    head_dim: int
    value_dim: int | None = None
    rotary_dim: int | None = None
    interleaved: bool = False
    has_norm: bool = False
    unit_offset: bool = False
    is_packed: bool = False
    page_size: int = 16
    kv_dtype: str | None = None
    scales: Literal["tensor", "head"] = "tensor"
    skipped: bool = False
    spare_pages: int = 2
    index_name: str = "int64"
    is_latent: bool = False

    @property
    def values(self) -> int:
        """Elements of a value."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def rotary(self) -> int:
        """Elements of a head that are rotated."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

    @property
    def terms(self) -> int:
        """Additions on the way to one output."""
        return ADDITIONS

    @property
    def passes_int32(self) -> bool:
        """Whether the cache pages begin 2^31 elements or more behind the first."""
        return self.spare_pages * self.page_size * self.kv_heads * self.head_dim >= 2**31


GATE_PROBLEMS = (
    RopeProblem("one", 1, 1, 1, 2, page_size=1),
    RopeProblem("no_tokens", 0, 2, 1, 16, is_packed=True),
    RopeProblem("halves", 3, 5, 2, 16, is_packed=True, index_name="int32"),
    RopeProblem("interleaved", 3, 4, 2, 16, interleaved=True, is_packed=True),
    RopeProblem("odd_dim", 3, 3, 3, 24, value_dim=20, page_size=5, skipped=True),
    RopeProblem("partial", 3, 2, 1, 40, rotary_dim=12, skipped=True),
    RopeProblem("partial_interleaved", 3, 2, 1, 40, rotary_dim=12, interleaved=True, has_norm=True),
    RopeProblem("norm", 5, 6, 3, 32, has_norm=True, is_packed=True),
    RopeProblem("norm_unit_offset", 4, 2, 2, 24, rotary_dim=8, has_norm=True, unit_offset=True),
    RopeProblem("no_cache", 3, 4, 2, 16, page_size=0, is_packed=True),
    RopeProblem("queries_alone", 3, 4, 2, 16, page_size=0),
    RopeProblem("float8", 7, 4, 2, 16, kv_dtype=FLOAT8, skipped=True, is_packed=True),
    RopeProblem("float8_head_scales", 5, 6, 3, 32, kv_dtype=FLOAT8, scales="head", has_norm=True, page_size=4),
    RopeProblem("latent", 3, 4, 1, 16, value_dim=48, interleaved=True, is_latent=True, skipped=True),
    RopeProblem("latent_float8", 3, 4, 1, 16, value_dim=48, interleaved=True, is_latent=True, kv_dtype=FLOAT8),
    # 32,768 pages of 256 * 4 * 64 = 2^16 elements before the first that is written: it begins at element 2^31.
    RopeProblem("page_32768", 2, 4, 4, 64, page_size=256, spare_pages=32_768, kv_dtype=FLOAT8),
)

GPU_GATE_PROBLEMS = (
    RopeProblem("llama_many", 1000, 32, 8, 128, is_packed=True, skipped=True),
    RopeProblem("qwen3_norm", 333, 40, 8, 128, has_norm=True, kv_dtype=FLOAT8, scales="head"),
    RopeProblem("gemma3", 333, 8, 4, 256, has_norm=True, unit_offset=True),
    RopeProblem("phi_partial", 333, 32, 32, 96, rotary_dim=72),
    RopeProblem("deepseek_v3", 333, 128, 1, 64, value_dim=512, interleaved=True, is_latent=True, page_size=64),
    RopeProblem("page_32768_of_16_bits", 70, 4, 4, 64, page_size=256, spare_pages=32_768),
)

BENCH_PROBLEMS = (
    *(RopeProblem(f"llama3.1-8b_t{tokens}", tokens, 32, 8, 128) for tokens in (1, 64, 4096)),
    *(RopeProblem(f"qwen3-32b_t{tokens}", tokens, 64, 8, 128, has_norm=True) for tokens in (1, 64, 4096)),
    RopeProblem("llama3.1-8b_t4096_fp8kv", 4096, 32, 8, 128, kv_dtype=FLOAT8),
    RopeProblem("llama3.1-8b_t4096_packed", 4096, 32, 8, 128, is_packed=True),
    RopeProblem(
        "deepseek-v3_t4096", 4096, 128, 1, 64, value_dim=512, interleaved=True, is_latent=True, page_size=64
    ),
)  # fmt: skip


def takes(problem: RopeProblem, dtype_name: str, capability: int | None) -> bool:
    """Whether the kernel takes the problem in a dtype on a GPU of `capability`; None stands for the interpreter."""
    if problem.passes_int32 and problem.kv_dtype is None and dtype_name == "float32":  # 16 GB
        return False
    return problem.kv_dtype is None or capability is None or capability >= 89
