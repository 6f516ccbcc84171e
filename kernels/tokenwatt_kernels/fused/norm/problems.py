"""Shapes of RMS normalisations: small odd ones for the gate, real ones for the bench."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DTYPE_NAMES = ("float32", "float16", "bfloat16")

Scales = Literal["none", "tensor", "token", "block"]
"""Of a float8 answer: one that is given, one for each row, one for each 128 elements; "none" is an answer in the dtype
of x."""

ADDITIONS = 64
"""The most additions on the way to a sum of squares: at most 32 in a thread, then one for each halving."""


@dataclass(frozen=True, slots=True)
class NormProblem:
    """Rows [rows, width] or, with heads, [rows, heads, width], as a part of longer rows.

    has_norm: without one rows are quantised as they are.
    """

    name: str
    rows: int
    width: int
    heads: int = 0
    has_residual: bool = False
    unit_offset: bool = False
    scales: Scales = "none"
    has_norm: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of x and of the answer."""
        return (self.rows, self.heads, self.width) if self.heads else (self.rows, self.width)

    @property
    def scales_per_row(self) -> int:
        """How many scales a row of the answer has."""
        return self.width // 128 if self.scales == "block" else 1

    @property
    def terms(self) -> int:
        """Additions on the way to one output."""
        return ADDITIONS


GATE_PROBLEMS = (
    NormProblem("one", 1, 1),
    NormProblem("no_rows", 0, 16, has_residual=True),
    NormProblem("odd", 3, 129),
    NormProblem("residual", 5, 200, has_residual=True),
    NormProblem("unit_offset", 3, 64, unit_offset=True, has_residual=True),
    NormProblem("heads", 3, 32, heads=5),
    NormProblem("odd_heads", 2, 24, heads=3, unit_offset=True),
    NormProblem("tensor_scale", 3, 100, scales="tensor", has_residual=True),
    NormProblem("token_scales", 5, 72, scales="token", has_residual=True),
    NormProblem("no_rows_token_scales", 0, 72, scales="token"),
    NormProblem("block_scales", 3, 384, scales="block"),
    NormProblem("block_scales_residual", 2, 256, scales="block", has_residual=True, unit_offset=True),
    NormProblem("quantised_tokens", 5, 72, scales="token", has_norm=False),
    NormProblem("quantised_blocks", 3, 384, scales="block", has_norm=False),
    NormProblem("widest", 1, 16_384),
)

GPU_GATE_PROBLEMS = (
    NormProblem("many_rows", 5000, 1024, has_residual=True),
    NormProblem("width_5120", 37, 5120, has_residual=True),
    NormProblem("width_8192_token", 37, 8192, has_residual=True, scales="token"),
    NormProblem("width_7168_block", 37, 7168, has_residual=True, scales="block"),
    NormProblem("width_16384", 9, 16_384, has_residual=True, scales="tensor"),
    NormProblem("qwen3_heads", 1000, 128, heads=40),
    NormProblem("quantised_width_14336", 300, 14_336, scales="token", has_norm=False),
)

BENCH_PROBLEMS = (
    *(
        NormProblem(f"{model}_t{rows}", rows, width, has_residual=True)
        for model, width in (("llama3.1-8b", 4096), ("llama3.1-70b", 8192))
        for rows in (1, 64, 4096)
    ),
    NormProblem("llama3.1-8b_t4096_fp8_token", 4096, 4096, has_residual=True, scales="token"),
    NormProblem("llama3.1-70b_t4096_fp8_block", 4096, 8192, has_residual=True, scales="block"),
    NormProblem("qwen3_heads_t4096", 4096, 128, heads=40),
    *(
        NormProblem(f"llama3.1-8b_down_t{rows}_fp8_token", rows, 14_336, scales="token", has_norm=False)
        for rows in (64, 4096)
    ),
)


def takes(problem: NormProblem, dtype_name: str, capability: int | None) -> bool:
    """Whether the kernel takes the problem in a dtype on a GPU of `capability`; None stands for the interpreter."""
    return problem.scales == "none" or capability is None or capability >= 89
