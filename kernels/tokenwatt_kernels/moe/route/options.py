"""How a router turns logits into experts and weights. Plain Python: importing this needs neither torch nor triton."""

from __future__ import annotations

from dataclasses import dataclass

SCORES = ("softmax", "sigmoid")
MOST_EXPERTS = 512
MOST_CHOSEN = 16


@dataclass(frozen=True, slots=True)
class Choice:
    """The k best of E experts.

    score: what a logit becomes, a softmax over all experts or a sigmoid.
    renormalize: weights of a token add up to `scale`. With a softmax this is the same as one over the chosen logits
        (exp(x_i) / sum of all cancels), so it is Mixtral's and gpt-oss's router and Qwen3-MoE's norm_topk_prob.
    groups, top_groups: experts lie in `groups` equal groups, of which the top_groups with the largest sums of their two
        best scores stay (DeepSeek-V3, arXiv 2412.19437: 8 and 4 of 256 experts).
    scale: factor of all weights, DeepSeek's routed_scaling_factor.
    """

    top_k: int
    score: str = "softmax"
    renormalize: bool = True
    groups: int = 1
    top_groups: int = 1
    scale: float = 1.0

    def check(self, experts: int) -> None:
        """Raise ValueError unless `experts` can be chosen from like this."""
        if not 1 <= experts <= MOST_EXPERTS:
            raise ValueError(f"router_logits must have E from 1 to {MOST_EXPERTS}, got {experts}")
        if not 1 <= self.top_k <= min(experts, MOST_CHOSEN):
            raise ValueError(f"top_k must be from 1 to E = {experts} and at most {MOST_CHOSEN}, got {self.top_k}")
        if self.score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {self.score}")
        if self.groups < 1 or not 1 <= self.top_groups <= self.groups:
            raise ValueError(f"top_groups must be from 1 to groups = {self.groups}, got {self.top_groups}")
        if self.groups == 1:
            return
        size = experts // self.groups
        if self.score != "sigmoid":
            raise ValueError(f"score must be sigmoid where experts lie in groups, got {self.score}")
        if size * self.groups != experts or not _are_powers_of_two(size, self.groups) or size < 2:
            raise ValueError(
                f"groups must be a power of two that cuts E = {experts} into groups of 2, 4, 8, ..., got {self.groups}"
            )
        if self.top_k > self.top_groups * size:
            raise ValueError(
                f"top_k must be at most {self.top_groups * size}, the experts of top_groups, got {self.top_k}"
            )


def _are_powers_of_two(*numbers: int) -> bool:
    return all(number > 0 and number & (number - 1) == 0 for number in numbers)
