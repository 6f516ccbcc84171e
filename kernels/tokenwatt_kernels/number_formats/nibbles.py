"""Two 4-bit codes per byte, the first in the low nibble, as gpt-oss checkpoints have them."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_nibbles(codes: Tensor) -> Tensor:
    """Codes 0 to 15, uint8 [..., K] with K even, as bytes [..., K / 2]: byte j holds code 2 j in its low nibble."""
    return codes[..., 0::2] | codes[..., 1::2] << 4


def unpack_nibbles(packed: Tensor) -> Tensor:
    """Bytes [..., K / 2] as codes 0 to 15, uint8 [..., K]."""
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
