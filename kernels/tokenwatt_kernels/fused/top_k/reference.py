"""The largest logits in plain torch: the truth of the kernels, and the CPU path of the engine."""

from __future__ import annotations

import torch
from torch import Tensor


def transformed_reference(logits: Tensor, temperature: Tensor | None, softcap: float | None) -> Tensor:
    """softcap * tanh(logits / softcap) / temperature, in fp32, or in fp64 where logits are fp64. -inf stays -inf."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if softcap is not None:
        wide = torch.where(wide == float("-inf"), wide, softcap * torch.tanh(wide / softcap))
    return wide if temperature is None else wide / temperature.to(wide.dtype)[:, None]


def top_k_reference(
    logits: Tensor, k: int, temperature: Tensor | None, softcap: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Values [B, k] and indices [B, k] of the largest of logits [B, V], and the log-sum-exp [B] of all.

    Equal logits come in the order of their indices, NaN as if it were -inf.
    """
    ordered = logits.masked_fill(logits.isnan(), float("-inf"))
    if k == 1:  # the first of the largest, without sorting the others
        indices = ordered.argmax(dim=1, keepdim=True)
    else:
        indices = ordered.sort(dim=1, descending=True, stable=True).indices[:, :k]
    chosen = transformed_reference(ordered.gather(1, indices), temperature, softcap)
    return chosen, indices.int(), transformed_reference(logits, temperature, softcap).logsumexp(1)
