"""Grouped matmuls: small ones for the gate that cross tiles and experts, the layers of models for the bench."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tokenwatt_kernels.matmul.problem import DTYPE_NAMES, FLOAT8, FLOAT8_CAPABILITY

__all__ = ["BENCH_PROBLEMS", "DTYPE_NAMES", "FLOAT8", "GATE_PROBLEMS", "GPU_GATE_PROBLEMS", "takes"]


@dataclass(frozen=True, slots=True)
class GroupedProblem:
    """One product of a mixture-of-experts layer: [rows, k] times the weight [n, k] of each row's expert.

    rows: of each expert. top_k: rows of a token.
    gathers: rows are read from tokens [T, k]; otherwise they lie sorted by expert.
    combines: the answers of a token's rows are weighted and added up; otherwise they stay sorted by expert.
    scales: where float8 tensors have their factors: "tensor", "channel" (per row of either side) or "block".
    fast_accumulation: float8 products may stay in the tensor cores' accumulator.
    is_mxfp4: the weight is packed, and rows are bfloat16.
    """

    name: str
    rows: tuple[int, ...]
    n: int
    k: int
    top_k: int = 1
    gathers: bool = False
    combines: bool = False
    activation: str = "none"
    has_bias: bool = False
    has_residual: bool = False
    scales: str = "channel"
    fast_accumulation: bool = False
    is_mxfp4: bool = False

    @property
    def tokens(self) -> int:
        """Tokens that the rows belong to."""
        return sum(self.rows) // self.top_k

    @property
    def is_gated(self) -> bool:
        """Whether the weight's rows are those of gate and up in turns."""
        return self.activation != "none"

    @property
    def out_columns(self) -> int:
        """Columns of an answer: half of n where gate and up become one."""
        return self.n // 2 if self.is_gated else self.n

    @property
    def terms(self) -> int:
        """Terms in the sum of one output."""
        return self.k * (self.top_k if self.combines else 1)

    @property
    def touched(self) -> int:
        """Experts that have rows."""
        return sum(rows > 0 for rows in self.rows)


def gate_up(
    name: str, rows: tuple[int, ...], n: int, k: int, top_k: int = 1, *, activation: str = "swiglu", **options: Any
) -> GroupedProblem:
    """The first product of a layer: rows gathered from tokens, gate and up in turns."""
    return GroupedProblem(name, rows, n, k, top_k, gathers=True, activation=activation, **options)


def down(name: str, rows: tuple[int, ...], n: int, k: int, top_k: int = 1, **options: Any) -> GroupedProblem:
    """The second product of a layer: back to tokens."""
    return GroupedProblem(name, rows, n, k, top_k, combines=True, **options)


def balanced(tokens: int, experts: int, top_k: int) -> tuple[int, ...]:
    """Rows of each expert, as equal as possible.

    >>> balanced(3, 4, 2)
    (2, 2, 1, 1)
    """
    least, more = divmod(tokens * top_k, experts)
    return tuple(least + (expert < more) for expert in range(experts))


def skewed(tokens: int, experts: int, top_k: int) -> tuple[int, ...]:
    """Rows of each expert in proportion to 1 / (its number + 1), at most one per token. The last may have none.

    >>> skewed(4, 6, 2)
    (4, 2, 1, 1, 0, 0)
    """
    left, rows = tokens * top_k, []
    shares = [1 / (expert + 1) for expert in range(experts)]
    for expert in range(experts):
        wanted = math.ceil(left * shares[expert] / sum(shares[expert:]))
        rows.append(min(left, tokens, wanted))
        left -= rows[-1]
    return tuple(rows)


GATE_PROBLEMS = (
    GroupedProblem("one", (1,), 1, 1),
    GroupedProblem("no_rows", (0, 0), 24, 16),
    GroupedProblem("odd", (5, 0, 17, 34), 63, 129),
    GroupedProblem("all_to_one", (0, 0, 70, 0), 40, 48, has_bias=True),
    GroupedProblem("one_row_each", (1,) * 9, 33, 64),
    GroupedProblem("whole_tiles", (32, 64), 64, 64, activation="geglu"),
    GroupedProblem("many_row_tiles", (163, 0, 21), 72, 40, activation="swiglu_clamped", has_bias=True),
    gate_up("gate_up", (3, 9, 0, 20), 46, 72, 4),
    gate_up("gate_up_bias", (7, 0, 31), 66, 80, 2, activation="swiglu_clamped", has_bias=True),
    gate_up("gathered_product", (1, 2, 3, 3), 17, 33, 3, activation="none"),
    down("down", (21, 0, 4, 11), 72, 46, 4, has_residual=True),
    down("down_bias", (13, 5, 2), 35, 96, 2, has_bias=True),
    down("down_of_one", (6, 12), 1030, 16),
    gate_up("tensor_scales", (5, 0, 19), 44, 64, 2, scales="tensor"),
    gate_up("channel_scales", (4, 17, 0, 6), 48, 144, 3),
    gate_up("channel_scales_fast", (4, 17, 0, 6), 48, 144, 3, fast_accumulation=True),
    gate_up("block_scales", (3, 18, 0, 9), 300, 256, 2, scales="block"),
    down("block_scales_down", (20, 0, 2), 200, 384, 2, scales="block", has_bias=True),
    GroupedProblem("mxfp4", (5, 0, 17, 34), 63, 160, is_mxfp4=True),
    gate_up("mxfp4_gate_up", (7, 0, 31), 140, 288, 2, activation="swiglu_clamped", has_bias=True, is_mxfp4=True),
    down("mxfp4_down", (13, 0, 2, 5), 68, 384, 4, has_bias=True, has_residual=True, is_mxfp4=True),
)

GPU_GATE_PROBLEMS = (
    gate_up("mixtral_small", (300, 0, 129, 64, 1, 511, 90, 5), 1792, 1024, 2),
    down("mixtral_small_down", (300, 0, 129, 64, 1, 511, 90, 5), 1024, 896, 2, has_residual=True),
    gate_up("gpt_oss_few", balanced(16, 32, 4), 720, 1440, 4, activation="swiglu_clamped", has_bias=True),
    down("gpt_oss_few_down", balanced(16, 32, 4), 1440, 720, 4, has_bias=True),
    gate_up("many_experts", skewed(512, 512, 8), 256, 512, 8),
    gate_up("block_scales_large", skewed(512, 64, 8), 1024, 1024, 8, scales="block"),
    gate_up("channel_scales_large", skewed(512, 64, 8), 1024, 1024, 8),
    GroupedProblem("odd_large", (1000, 0, 77), 777, 1001),
    gate_up("mxfp4_few", balanced(16, 32, 4), 5760, 2880, 4, activation="swiglu_clamped", has_bias=True, is_mxfp4=True),
    down("mxfp4_many", skewed(600, 8, 2), 2880, 2880, 2, has_bias=True, is_mxfp4=True),
)

_MODELS = {
    # experts, top_k, hidden, intermediate
    "mixtral-8x7b": (8, 2, 4096, 14_336, {}),
    "qwen3-30b-a3b": (128, 8, 2048, 768, {}),
    "gpt-oss-20b": (32, 4, 2880, 2880, {"has_bias": True}),
    "gpt-oss-20b_mxfp4": (32, 4, 2880, 2880, {"has_bias": True, "is_mxfp4": True}),
    "gpt-oss-120b_mxfp4": (128, 4, 2880, 2880, {"has_bias": True, "is_mxfp4": True}),
    "deepseek-v3": (256, 8, 7168, 2048, {"scales": "block"}),
}


def _layers() -> tuple[GroupedProblem, ...]:
    found = []
    for model, (experts, top_k, hidden, intermediate, options) in _MODELS.items():
        gated = {"activation": "swiglu_clamped" if model.startswith("gpt-oss") else "swiglu"}
        for tokens in (1, 16, 64, 4096):
            rows = balanced(tokens, experts, top_k)
            found += [
                gate_up(f"{model}_gate_up_t{tokens}", rows, 2 * intermediate, hidden, top_k, **gated, **options),
                down(f"{model}_down_t{tokens}", rows, hidden, intermediate, top_k, **options),
            ]
    return tuple(found)


BENCH_PROBLEMS = (
    *_layers(),
    gate_up("qwen3-30b-a3b_gate_up_t4096_skewed", skewed(4096, 128, 8), 1536, 2048, 8),
)


def takes(problem: GroupedProblem, dtype_name: str, capability: int | None) -> bool:
    """Whether the kernels take the problem in a dtype on a GPU of `capability`; None stands for the interpreter.

    Tensors of other types than float8 have no scales, whatever the problem says about them.
    """
    if problem.is_mxfp4:
        return dtype_name == "bfloat16"
    return dtype_name != FLOAT8 or capability is None or capability >= FLOAT8_CAPABILITY
