"""Shapes of matmuls of few rows: small odd ones for the gate, the layers of real models for the bench."""

from __future__ import annotations

from tokenwatt_kernels.matmul.problem import DTYPE_NAMES, MatmulProblem, takes
from tokenwatt_kernels.matmul.shapes import LLAMA_8B, LLAMA_70B, LLAMA_UNEMBED, layer_problems

__all__ = ["BENCH_PROBLEMS", "DTYPE_NAMES", "GATE_PROBLEMS", "GPU_GATE_PROBLEMS", "takes"]

GATE_PROBLEMS = (
    MatmulProblem("one", 1, 1, 1),
    MatmulProblem("no_rows", 0, 16, 16),
    MatmulProblem("no_terms", 5, 7, 0, has_bias=True),
    MatmulProblem("one_row", 1, 129, 200),
    MatmulProblem("odd", 17, 63, 129),
    MatmulProblem("full", 64, 48, 96),
    MatmulProblem("one_tile", 3, 16, 704),
    MatmulProblem("many_tiles", 5, 520, 40),
    MatmulProblem("ends", 19, 70, 264, has_bias=True, has_residual=True),
    MatmulProblem("swiglu", 7, 80, 264, "swiglu", has_bias=True, has_residual=True),
    MatmulProblem("geglu", 2, 134, 136, "geglu"),
    MatmulProblem("swiglu_clamped", 33, 64, 72, "swiglu_clamped", has_bias=True),
    MatmulProblem("tensor", 3, 70, 272, scaling="tensor"),
    MatmulProblem("token_channel", 37, 70, 272, "swiglu", True, True, scaling="token_channel"),
    MatmulProblem("token_channel_fast", 6, 64, 272, scaling="token_channel", fast_accumulation=True),
    MatmulProblem("block", 9, 264, 400, scaling="block"),
    MatmulProblem("block_swiglu", 16, 264, 272, "swiglu", scaling="block"),
)

GPU_GATE_PROBLEMS = (
    MatmulProblem("skinny", 3, 1000, 4096),
    MatmulProblem("narrow", 33, 4096, 520),
    MatmulProblem("long", 1, 4096, 14_336, has_residual=True),
    MatmulProblem("wide_swiglu", 16, 28_672, 512, "swiglu"),
    MatmulProblem("wide_token_channel", 64, 6144, 4096, scaling="token_channel"),
    MatmulProblem("wide_block", 64, 6144, 4096, scaling="block"),
    MatmulProblem("wide_block_swiglu", 64, 6144, 4096, "swiglu", scaling="block"),
    MatmulProblem("far", 1, 131_136, 16_384),
)
"""The weight of "far" has more than 2^31 elements."""

_LLAMA = tuple(
    problem
    for scaling in ("none", "token_channel")
    for problem in (
        *layer_problems("llama3.1-8b", LLAMA_8B, (1, 16, 64), scaling),
        *layer_problems("llama3.1-70b", LLAMA_70B, (1, 16, 64), scaling),
        *layer_problems("llama3.1-8b", {"unembed": LLAMA_UNEMBED}, (1, 64), scaling),
    )
)

BENCH_PROBLEMS = (
    *_LLAMA,
    # DeepSeek-V3's projections, as DeepGEMM's README times them.
    MatmulProblem("deepseek-v3_out_m64", 64, 7168, 16_384, scaling="block"),
    MatmulProblem("deepseek-v3_q_up_m64", 64, 24_576, 1536, scaling="block"),
    MatmulProblem("deepseek-v3_gate_up_m64", 64, 4096, 7168, scaling="block"),
    MatmulProblem("deepseek-v3_latents_m64", 64, 2112, 7168, scaling="block"),
)
