"""Candidate tiles through the gate of `tune`, interpreted. Prints {candidate: the reason against it, or null}."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tokenwatt_kernels import interpreter
from tokenwatt_kernels.attention.decode.problems import tokens
from tokenwatt_kernels.attention.decode.tiles import DecodeTile
from tokenwatt_kernels.attention.prefill.problems import chunks, prompts
from tokenwatt_kernels.attention.prefill.tiles import PrefillTile
from tokenwatt_kernels.families import part
from tokenwatt_kernels.fused.norm.problems import NormProblem
from tokenwatt_kernels.fused.norm.tiles import NormTile
from tokenwatt_kernels.fused.rope.problems import RopeProblem
from tokenwatt_kernels.fused.rope.tiles import RopeTile
from tokenwatt_kernels.fused.top_k.problems import TopKProblem
from tokenwatt_kernels.fused.top_k.tiles import TopKTile
from tokenwatt_kernels.matmul.dense.tiles import DenseTile
from tokenwatt_kernels.matmul.nvfp4.problems import Nvfp4Problem
from tokenwatt_kernels.matmul.packed.problems import PackedProblem
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.matmul.split_tile import SplitTile
from tokenwatt_kernels.moe.grouped.problems import balanced, down, gate_up
from tokenwatt_kernels.moe.grouped.tiles import GroupedTile
from tokenwatt_kernels.moe.route.problems import softmax
from tokenwatt_kernels.moe.route.tiles import RouteTile
from tokenwatt_kernels.trials import reason_against
from tokenwatt_kernels.tune import Job

# Siblings for a GPU take the interpreter minutes.
SMALLER = (
    ("attention.prefill", "LENGTHS", (45, 1, 20)),
    ("attention.decode", "CONTEXTS", (70, 0, 3, 40)),
    ("fused.norm", "MOST_ROWS", 5),
    ("fused.rope", "MOST_TOKENS", 5),
    ("fused.top_k", "MOST_VOCABULARY", 150),
    ("matmul.dense", "MOST_ROWS", 48),
    ("matmul.dense", "MOST_COLUMNS", 48),
    ("matmul.dense", "MOST_TERMS", 80),
    ("matmul.skinny", "MOST_COLUMNS", 48),
    ("matmul.skinny", "MOST_TERMS", 112),
    ("matmul.packed", "MOST_COLUMNS", 48),
    ("matmul.packed", "MOST_TERMS", 384),
    ("matmul.nvfp4", "MOST_COLUMNS", 48),
    ("matmul.nvfp4", "MOST_TERMS", 384),
    ("moe.route", "MOST_TOKENS", 83),
    ("moe.grouped", "MOST_ROWS", 24),
    ("moe.grouped", "MOST_COLUMNS", 48),
    ("moe.grouped", "MOST_TERMS", 80),
)
PREFILL = PrefillTile(32, 32, 16, 4, 2, descriptors=True)
DECODE = DecodeTile(16, 32, 16, 4, 2, 2, least_steps=2, descriptors=True)
MATMUL = DenseTile(32, 32, 32, 2, 4, 2)
SKINNY = SplitTile(16, 32, 32, 4, 2, 1, 2)
GROUPED = GroupedTile(16, 32, 32, 2, 4, 2, 1, descriptors=True)
CANDIDATES = {
    "prefill": ("attention.prefill", prompts("p", (4096,), 2, 1, 16), PREFILL),
    "prefill of a window over pages": (
        "attention.prefill",
        chunks("w", (512,), (4096,), 2, 1, 16, page_size=24, window=20, has_sinks=True),
        replace(PREFILL, descriptors=False),
    ),
    "prefill that copies across pages": ("attention.prefill", chunks("c", (5,), (9,), 2, 1, 16, page_size=16), PREFILL),
    "decode": ("attention.decode", tokens("d", (4096,) * 8, 4, 2, 16, page_size=32), DECODE),
    "decode of two tokens": ("attention.decode", tokens("v", (4096,), 4, 2, 16, queries=2, page_size=64), DECODE),
    "decode that copies across pages": ("attention.decode", tokens("c", (4096,), 4, 2, 16), DECODE),
    "route": ("moe.route", softmax("r", 4096, 128, 8), RouteTile(8, 4, 16, 2)),
    "grouped": ("moe.grouped", gate_up("g", balanced(4096, 128, 8), 1536, 2048, 8), GROUPED),
    "grouped and combined": (
        "moe.grouped",
        down("d", balanced(16, 128, 8), 2048, 768, 8),
        replace(GROUPED, swapped=True),
    ),
    "norm": ("fused.norm", NormProblem("n", 4096, 200, has_residual=True, scales="token"), NormTile(2, 8)),
    "rope": ("fused.rope", RopeProblem("r", 4096, 6, 2, 16, has_norm=True, skipped=True), RopeTile(64, 1)),
    "top-k": ("fused.top_k", TopKProblem("t", 64, 128_256, 3), TopKTile(64, 16, 2, 8, 2)),
    "matmul": ("matmul.dense", MatmulProblem("m", 4096, 4096, 4096), MATMUL),
    "packed": ("matmul.packed", PackedProblem("p", 3, 4096, 4096), SplitTile(16, 32, 128, 4, 2, 1, 2)),
    "nvfp4": ("matmul.nvfp4", Nvfp4Problem("q", 3, 4096, 4096), SplitTile(16, 32, 128, 4, 2, 1, 2)),
    "matmul of few rows": ("matmul.skinny", MatmulProblem("f", 3, 4096, 4096, has_residual=True), SKINNY),
}


def dtype_of(family: str) -> str:
    """float32, whose gate is the strictest, where the kernels take it."""
    names = part(family, "problems").DTYPE_NAMES
    return "float32" if "float32" in names else "bfloat16"


def main() -> dict[str, Any]:
    """What `reason_against` says about each candidate."""
    for family, name, value in SMALLER:
        setattr(part(family, "tuning"), name, value)
    return {
        name: reason_against((Job(family, None, ((problem, dtype_of(family)),)), tile, "cpu"))
        for name, (family, problem, tile) in CANDIDATES.items()
    }


if __name__ == "__main__":
    interpreter.enable()
    print(json.dumps(main()))
