"""Activations that a matmul can apply to what it has summed, before anything of it goes to memory.

A gated activation takes columns in pairs: 2 j is the gate of output j and 2 j + 1 what it lets through, so that one
thread holds both. `interleave` brings weights into that order.
"""

from __future__ import annotations

import torch
from torch import Tensor

ACTIVATIONS = ("none", "swiglu", "geglu", "swiglu_clamped")
"""none; silu(gate) * up; gelu(gate) * up with the tanh form of gelu, as Gemma has it; gpt-oss's clamped SwiGLU."""

# (up + 1) * gate / (1 + e^-(1.702 gate)), gate at most 7, up from -7 to 7: gpt-oss's config.json and its MLP block.
CLAMPED_SLOPE = 1.702
CLAMPED_LIMIT = 7.0


def is_gated(activation: str) -> bool:
    """Whether an output takes two columns of the product."""
    return activation != "none"


def check_activation(activation: str, columns: int) -> None:
    """Raise unless the activation is known, and the product has whole pairs of columns for it."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation}")
    if is_gated(activation) and columns % 2:
        raise ValueError(f"weight must have an even N for {activation}, gate and up in turns, got {columns}")


def out_columns(activation: str, columns: int) -> int:
    """Columns of the output for N = `columns` of the product."""
    return columns // 2 if is_gated(activation) else columns


def interleave(gate: Tensor, up: Tensor) -> Tensor:
    """Two weights [..., I, K], of the gate and of what it lets through, as one [..., 2 I, K] for a gated activation."""
    if gate.shape != up.shape:
        raise ValueError(f"up must have the shape of gate, {list(gate.shape)}, got {list(up.shape)}")
    return torch.stack([gate, up], dim=-2).flatten(-3, -2)


def activate_reference(product: Tensor, activation: str) -> Tensor:
    """The activation of a product [..., N] in plain torch: [..., N] or, gated, [..., N / 2]."""
    if not is_gated(activation):
        return product
    gate, up = product[..., 0::2], product[..., 1::2]
    if activation == "swiglu":
        return torch.nn.functional.silu(gate) * up
    if activation == "geglu":
        return torch.nn.functional.gelu(gate, approximate="tanh") * up
    gate, up = gate.clamp(max=CLAMPED_LIMIT), up.clamp(-CLAMPED_LIMIT, CLAMPED_LIMIT)
    return gate * torch.sigmoid(CLAMPED_SLOPE * gate) * (up + 1)
