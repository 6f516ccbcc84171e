"""Shapes of choices of tokens: small odd ones for the gate, real ones for the bench."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

DTYPE_NAMES = ("float32", "float16", "bfloat16")
ADDITIONS = 64
"""The most additions on the way to a log-sum-exp: in a thread, then one for each halving of threads and of parts."""


@dataclass(frozen=True, slots=True)
class TopKProblem:
    """The k largest of each of `rows` rows of `vocabulary` logits.

    values: standard normal logits, whole numbers from -3 to 3 (so that most are equal), or normal ones of which many
        are ruled out (-inf), in the first row all.
    """

    name: str
    rows: int
    vocabulary: int
    k: int
    softcap: float | None = None
    has_temperature: bool = False
    values: Literal["normal", "equal", "ruled_out"] = "normal"

    @property
    def terms(self) -> int:
        """Additions on the way to one output. A softcap c rounds every logit by some c * 2^-24, as c^2 terms would."""
        return max(ADDITIONS, math.ceil((self.softcap or 0.0) ** 2))


GATE_PROBLEMS = (
    TopKProblem("one", 1, 1, 1),
    TopKProblem("no_rows", 0, 33, 2),
    TopKProblem("greedy", 3, 333, 1),
    TopKProblem("greedy_equal", 2, 200, 1, values="equal"),
    TopKProblem("five", 3, 333, 5),
    TopKProblem("equal", 2, 200, 16, values="equal"),
    TopKProblem("all_of_them", 2, 13, 13),
    TopKProblem("softcap", 2, 150, 3, softcap=2.0, has_temperature=True),
    TopKProblem("temperature", 3, 150, 4, has_temperature=True),
    TopKProblem("ruled_out", 3, 150, 8, values="ruled_out", softcap=3.0),
    TopKProblem("greedy_ruled_out", 3, 150, 1, values="ruled_out"),
    TopKProblem("sixty_four", 1, 700, 64),
)

GPU_GATE_PROBLEMS = (
    TopKProblem("llama_greedy", 5, 128_256, 1),
    TopKProblem("gemma", 3, 262_144, 40, softcap=30.0, has_temperature=True),
    TopKProblem("qwen_64", 7, 151_936, 64),
    TopKProblem("odd_128", 3, 50_257, 128, values="equal"),
)

BENCH_PROBLEMS = tuple(
    TopKProblem(f"{model}_b{rows}_k{k}", rows, vocabulary, k)
    for model, vocabulary in (("llama3", 128_256), ("qwen3", 151_936))
    for rows in (1, 64, 256)
    for k in (1, 64)
)


def takes(problem: TopKProblem, dtype_name: str, capability: int | None) -> bool:
    """Whether the kernels take the problem in a dtype on a GPU of `capability`: always."""
    return True
