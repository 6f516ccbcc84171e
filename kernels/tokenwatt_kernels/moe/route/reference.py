"""Routing in plain torch: the truth that the kernels are held to, and the answer on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels.moe.route.options import Choice

SMALLEST_SUM = 1e-20
"""Added to the sum of a token's sigmoids, as in DeepSeek-V3's gate."""

Tensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def route_reference(logits: Tensor, correction_bias: Tensor | None, choice: Choice) -> Tensors:
    """weights [T, k] in the dtype of logits [T, E], and the int32 tensors of `Routing` in its order."""
    scores = logits.sigmoid() if choice.score == "sigmoid" else logits
    ranked = scores if correction_bias is None else scores + correction_bias.to(scores.dtype)
    if choice.groups > 1:
        ranked = _without_other_groups(ranked, choice)
    # A stable sort gives equal scores to the lower index, which topk does not promise.
    experts = ranked.sort(dim=-1, descending=True, stable=True).indices[:, : choice.top_k]
    weights = _weights(scores, experts, choice)
    flat = experts.flatten()
    order = flat.sort(stable=True).indices
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    counts = torch.bincount(flat, minlength=logits.shape[1])
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return weights, experts.int(), order.int(), inverse.int(), offsets.int()


def _without_other_groups(ranked: Tensor, choice: Choice) -> Tensor:
    grouped = ranked.unflatten(-1, (choice.groups, -1))
    of_groups = grouped.sort(dim=-1, descending=True).values[..., :2].sum(-1)
    chosen = of_groups.sort(dim=-1, descending=True, stable=True).indices[:, : choice.top_groups]
    stays = torch.zeros_like(of_groups, dtype=torch.bool).scatter(1, chosen, True)
    return grouped.masked_fill(~stays[..., None], float("-inf")).flatten(-2)


def _weights(scores: Tensor, experts: Tensor, choice: Choice) -> Tensor:
    if choice.score == "softmax":
        if choice.renormalize:
            return scores.gather(1, experts).softmax(-1) * choice.scale
        return scores.softmax(-1).gather(1, experts) * choice.scale
    weights = scores.gather(1, experts)
    if choice.renormalize:
        weights = weights / (weights.sum(-1, keepdim=True) + SMALLEST_SUM)
    return weights * choice.scale
