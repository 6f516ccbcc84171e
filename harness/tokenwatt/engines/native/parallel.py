"""Tensor parallelism (Shoeybi et al., arXiv 1909.08053): every rank holds a share of each product, and sums are joined.

Queries, keys, values, gate and up are cut by output columns, so that a rank has whole heads and whole pairs; what comes
back from them is cut along the sum, and one all-reduce follows. All ranks run the same steps on the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed

from tokenwatt.architecture import Architecture, DenseMlp, GroupedAttention, Layer
from tokenwatt.errors import UserError


@dataclass(frozen=True, slots=True)
class Group:
    """The ranks that share a model; the default is one process alone."""

    rank: int = 0
    size: int = 1
    ranks: Any = None
    """torch.distributed.ProcessGroup; None means the default one."""

    def own(self, x: torch.Tensor | None) -> torch.Tensor | None:
        """What only one rank may add to a sum: x on the first, None on the others."""
        return x if self.rank == 0 else None

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' x, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(x, group=self.ranks)
        return x

    def join_columns(self, x: torch.Tensor) -> torch.Tensor:
        """All ranks' columns of x [B, N / size], side by side: [B, N]."""
        if self.size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)]
        torch.distributed.all_gather(parts, x.contiguous(), group=self.ranks)
        return torch.cat(parts, dim=1)

    def least(self, number: int, device: torch.device) -> int:
        """The smallest of all ranks' numbers."""
        if self.size == 1:
            return number
        numbers = torch.tensor([number], dtype=torch.int64, device=device)
        torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MIN, group=self.ranks)
        return int(numbers)


ALONE = Group()


def share_of(architecture: Architecture, size: int) -> Architecture:
    """What one of `size` ranks runs: its heads, and its share of every MLP.

    Raises:
        UserError: heads or widths that cannot be shared equally.
    """
    if size == 1:
        return architecture
    attention = architecture.attention
    _divide(architecture, "num_attention_heads", attention.num_attention_heads, size)
    if isinstance(attention, GroupedAttention):
        kv_heads = attention.num_key_value_heads
        if kv_heads % size and size % kv_heads:
            raise UserError(
                f"{architecture.name}: num_key_value_heads {kv_heads} and {size} GPUs do not divide one another"
            )
        attention = replace(attention, num_key_value_heads=max(1, kv_heads // size))
    attention = replace(attention, num_attention_heads=attention.num_attention_heads // size)
    layers = tuple(_share_of_layer(architecture, layer, size) for layer in architecture.layers)
    return replace(architecture, attention=attention, layers=layers)


def _share_of_layer(architecture: Architecture, layer: Layer, size: int) -> Layer:
    mlp = layer.mlp
    intermediate = _divide(architecture, "intermediate_size", mlp.intermediate_size, size)
    if isinstance(mlp, DenseMlp):
        return replace(layer, mlp=DenseMlp(intermediate))
    shared = _divide(architecture, "the shared experts' intermediate size", mlp.shared_intermediate_size, size)
    return replace(layer, mlp=replace(mlp, intermediate_size=intermediate, shared_intermediate_size=shared))


def _divide(architecture: Architecture, what: str, whole: int, size: int) -> int:
    if whole % size:
        raise UserError(f"{architecture.name}: {what} {whole} cannot be shared by {size} GPUs")
    return whole // size
