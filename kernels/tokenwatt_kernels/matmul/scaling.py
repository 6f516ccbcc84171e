"""How float8 operands are scaled: a number times its scale is what it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 128
"""Elements of a block along K, and rows of the weight in it."""

SCALINGS = ("none", "tensor", "token_channel", "block")
"""none: 16 or 32 bits, no scales.
tensor: one scale for all of a, one for all of the weight.
token_channel: one for each row of a, one for each row of the weight (an output channel).
block: one for each 128 elements of a row of a, one for each 128 x 128 elements of the weight (DeepSeek-V3).
"""


def a_scale_shape(scaling: str, m: int, k: int) -> tuple[int, ...]:
    """Shape of the scales of a [M, K]."""
    return {"tensor": (1,), "token_channel": (m,), "block": (m, -(-k // BLOCK))}[scaling]


def weight_scale_shape(scaling: str, n: int, k: int) -> tuple[int, ...]:
    """Shape of the scales of a weight [N, K]."""
    return {"tensor": (1,), "token_channel": (n,), "block": (-(-n // BLOCK), -(-k // BLOCK))}[scaling]


def scaling_of(weight_scale: Tensor) -> str:
    """Which scaling the scales of a weight are of, by their shape."""
    if weight_scale.dim() == 2:
        return "block"
    return "tensor" if weight_scale.numel() == 1 else "token_channel"


def expanded_a(a: Tensor, scale: Tensor) -> Tensor:
    """The numbers that a [M, K] stands for, in the dtype of `scale`."""
    factors = scale.repeat_interleave(BLOCK, 1)[:, : a.shape[1]] if scale.dim() == 2 else scale[:, None]
    return a.to(scale.dtype) * factors


def expanded_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """The numbers that a weight [N, K] stands for, in the dtype of `scale`."""
    if scale.dim() == 2:
        rows = scale.repeat_interleave(BLOCK, 0)[: weight.shape[0]]
        factors = rows.repeat_interleave(BLOCK, 1)[:, : weight.shape[1]]
    else:
        factors = scale[:, None]
    return weight.to(scale.dtype) * factors
