"""Shapes of dense matmuls: small odd ones for the gate, real ones for the bench."""

from __future__ import annotations

from tokenwatt_kernels.matmul.problem import DTYPE_NAMES, MatmulProblem, takes
from tokenwatt_kernels.matmul.shapes import LLAMA_8B, layer_problems

__all__ = ["BENCH_PROBLEMS", "DTYPE_NAMES", "GATE_PROBLEMS", "GPU_GATE_PROBLEMS", "takes"]

GATE_PROBLEMS = (
    MatmulProblem("one", 1, 1, 1),
    MatmulProblem("no_rows", 0, 16, 16),
    MatmulProblem("no_terms", 5, 7, 0, has_bias=True),
    MatmulProblem("odd", 17, 63, 129),
    MatmulProblem("one_row", 1, 129, 64),
    MatmulProblem("whole_tiles", 64, 32, 64),
    MatmulProblem("many_row_tiles", 163, 40, 33),
    MatmulProblem("ends", 37, 70, 48, has_bias=True, has_residual=True),
    MatmulProblem("swiglu", 37, 70, 48, "swiglu", has_bias=True, has_residual=True),
    MatmulProblem("geglu", 19, 134, 40, "geglu"),
    MatmulProblem("swiglu_clamped", 33, 64, 32, "swiglu_clamped", has_bias=True),
    MatmulProblem("tensor", 37, 70, 144, scaling="tensor"),
    MatmulProblem("token_channel", 37, 70, 144, "swiglu", True, True, scaling="token_channel"),
    MatmulProblem("token_channel_fast", 37, 70, 144, scaling="token_channel", fast_accumulation=True),
    MatmulProblem("block", 37, 150, 272, scaling="block"),
    MatmulProblem("block_swiglu", 21, 264, 400, "swiglu", scaling="block"),
)

GPU_GATE_PROBLEMS = (
    MatmulProblem("square", 1024, 1024, 1024),
    MatmulProblem("odd_large", 1000, 777, 1001),
    MatmulProblem("large_swiglu", 1000, 1040, 1040, "swiglu", has_bias=True, has_residual=True),
    MatmulProblem("large_token_channel", 1000, 1040, 1040, scaling="token_channel"),
    MatmulProblem("large_block", 1000, 1040, 1040, scaling="block"),
    MatmulProblem("large_block_swiglu", 1000, 1040, 1040, "swiglu", scaling="block"),
    MatmulProblem("far", 131_136, 64, 16_384),
)
"""a of "far" has more than 2^31 elements."""

BENCH_PROBLEMS = (
    *layer_problems("llama3.1-8b", LLAMA_8B, (256, 4096)),
    *layer_problems("llama3.1-8b", LLAMA_8B, (256, 4096), scaling="token_channel"),
    MatmulProblem("square_4096", 4096, 4096, 4096),
    MatmulProblem("square_8192", 8192, 8192, 8192),
    MatmulProblem("square_8192_tensor", 8192, 8192, 8192, scaling="tensor"),
    MatmulProblem("square_8192_fast", 8192, 8192, 8192, scaling="tensor", fast_accumulation=True),
    # DeepSeek-V3's shared expert and output projection, as DeepGEMM's README times them.
    MatmulProblem("deepseek-v3_down_m4096", 4096, 7168, 2048, scaling="block"),
    MatmulProblem("deepseek-v3_out_m4096", 4096, 7168, 16_384, scaling="block"),
)
