"""Keys and values of all running sequences, in pages of one pool; a page id means the same page in every layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwatt.architecture import Architecture, GroupedAttention


@dataclass(frozen=True, slots=True)
class KvCache:
    """The tensors alone; who holds which page is known to `PagePool`.

    page_size: tokens per page.
    layers: of grouped attention, keys and values [2, pages, page_size, num_key_value_heads, head_dim] of each layer; of
        latent attention [1, pages, page_size, 1, kv_lora_rank + qk_rope_head_dim].
    """

    page_size: int
    layers: tuple[Tensor, ...]

    @classmethod
    def empty(
        cls, architecture: Architecture, pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> KvCache:
        """A cache of zeros: what was never written is multiplied by weights of 0, and must not be NaN."""
        attention = architecture.attention
        if isinstance(attention, GroupedAttention):
            shape = (2, pages, page_size, attention.num_key_value_heads, attention.head_dim)
        else:
            shape = (1, pages, page_size, 1, attention.cached_size)
        layers = tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in architecture.layers)
        return cls(page_size, layers)
