"""Routing problems: small odd ones for the gate, those of models for the bench."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenwatt_kernels.moe.route.options import Choice

DTYPE_NAMES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class RouteProblem:
    """Logits [tokens, experts] and how experts are chosen.

    has_bias: a correction bias is added before experts are ranked.
    logits: random; "ties", of which many are equal; or "one expert", the same for every token.
    """

    name: str
    tokens: int
    experts: int
    choice: Choice
    has_bias: bool = False
    logits: str = "random"

    @property
    def rows(self) -> int:
        """Tokens times the experts of each."""
        return self.tokens * self.choice.top_k

    @property
    def terms(self) -> int:
        """Terms of the longest sum: the denominator of a softmax."""
        return self.experts


def softmax(
    name: str, tokens: int, experts: int, top_k: int, *, logits: str = "random", **options: Any
) -> RouteProblem:
    """Mixtral, Qwen3-MoE, gpt-oss."""
    return RouteProblem(name, tokens, experts, Choice(top_k, **options), logits=logits)


def sigmoid(
    name: str, tokens: int, experts: int, top_k: int, *, has_bias: bool = True, logits: str = "random", **options: Any
) -> RouteProblem:
    """DeepSeek-V3."""
    return RouteProblem(name, tokens, experts, Choice(top_k, "sigmoid", **options), has_bias, logits)


GATE_PROBLEMS = (
    softmax("one", 1, 1, 1),
    softmax("no_tokens", 0, 8, 2),
    softmax("mixtral", 19, 8, 2),
    softmax("not_renormalized", 9, 60, 4, renormalize=False),
    softmax("all_experts", 7, 16, 16),
    softmax("ties", 23, 12, 4, logits="ties"),
    softmax("all_tokens_to_one", 70, 5, 1, logits="one expert"),
    softmax("many_tokens", 1203, 6, 2),
    softmax("many_experts", 5, 512, 10),
    sigmoid("sigmoid", 13, 20, 3, has_bias=False, renormalize=False),
    sigmoid("deepseek", 11, 32, 5, groups=8, top_groups=4, scale=2.5),
    sigmoid("groups_with_ties", 10, 16, 4, groups=4, top_groups=2, logits="ties"),
    sigmoid("fewer_experts_than_a_tile", 20, 8, 3, groups=2, top_groups=1),
)

GPU_GATE_PROBLEMS = (
    softmax("qwen3_long", 20_011, 128, 8),
    softmax("ties_long", 5000, 128, 8, logits="ties"),
    softmax("most_experts", 3000, 512, 16),
    sigmoid("deepseek_long", 4097, 256, 8, groups=8, top_groups=4, scale=2.5),
)

_MODELS = {
    "mixtral-8x7b": lambda name, tokens: softmax(name, tokens, 8, 2),
    "qwen3-30b-a3b": lambda name, tokens: softmax(name, tokens, 128, 8),
    "gpt-oss-20b": lambda name, tokens: softmax(name, tokens, 32, 4),
    "deepseek-v3": lambda name, tokens: sigmoid(name, tokens, 256, 8, groups=8, top_groups=4, scale=2.5),
}

BENCH_PROBLEMS = tuple(
    make(f"{model}_t{tokens}", tokens) for model, make in _MODELS.items() for tokens in (1, 64, 4096)
)


def takes(problem: RouteProblem, dtype_name: str, capability: int | None) -> bool:
    """Whether the kernels take the problem in a dtype on a GPU of `capability`: always."""
    return True
