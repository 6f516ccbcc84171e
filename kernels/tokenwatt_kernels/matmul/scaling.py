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
block: one for each 128 elements of a row of a, one for each 128 x 128 elements of the weight (DeepSeek-V3), or, for a
    gated activation, for each 128 x 128 of gate and of up.
"""


def a_scale_shape(scaling: str, m: int, k: int) -> tuple[int, ...]:
    """Shape of the scales of a [M, K]."""
    return {"tensor": (1,), "token_channel": (m,), "block": (m, -(-k // BLOCK))}[scaling]


def weight_scale_rows(n: int, *, is_gated: bool) -> int:
    """Rows of the block scales of a weight [N, K].

    Where gate and up come in turns (`activations.interleave`), so do their scales: a row for 128 rows of gate, one for
    the same 128 of up, then the next two. So the scales of a checkpoint can be used as they are.

    >>> weight_scale_rows(264, is_gated=False), weight_scale_rows(264, is_gated=True)
    (3, 4)
    """
    return 2 * -(-n // (2 * BLOCK)) if is_gated else -(-n // BLOCK)


def weight_scale_shape(scaling: str, n: int, k: int, *, is_gated: bool) -> tuple[int, ...]:
    """Shape of the scales of a weight [N, K]; is_gated: its rows are those of gate and up in turns."""
    blocks = (weight_scale_rows(n, is_gated=is_gated), -(-k // BLOCK))
    return {"tensor": (1,), "token_channel": (n,), "block": blocks}[scaling]


def scaling_of(weight_scale: Tensor) -> str:
    """Which scaling the scales of a weight are of, by their shape."""
    if weight_scale.dim() == 2:
        return "block"
    return "tensor" if weight_scale.numel() == 1 else "token_channel"
