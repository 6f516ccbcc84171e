"""Keys and values of all running requests, in fixed-size pages handed out from one pool."""

from __future__ import annotations

import torch

from tokenwatt.architecture import Architecture

PAGE_SIZE = 16
"""Tokens per page."""


def pages_for(tokens: int) -> int:
    """Pages that hold `tokens` tokens."""
    return -(-tokens // PAGE_SIZE)


class KvCache:
    """One pool of pages per layer; a page id means the same page in every layer.

    `keys[layer]` and `values[layer]` are [num_pages, PAGE_SIZE, num_key_value_heads, head_dim].
    """

    def __init__(self, architecture: Architecture, num_pages: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (
            architecture.num_hidden_layers,
            num_pages,
            PAGE_SIZE,
            architecture.num_key_value_heads,
            architecture.head_dim,
        )
        self.num_pages = num_pages
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self._free = list(range(num_pages - 1, -1, -1))

    @property
    def free_pages(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def allocate(self, tokens: int) -> list[int] | None:
        """Pages for `tokens` tokens, or None while too few are free."""
        count = pages_for(tokens)
        if count > len(self._free):
            return None
        return [self._free.pop() for _ in range(count)]

    def release(self, pages: list[int]) -> None:
        """Give pages back."""
        self._free.extend(reversed(pages))

    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor) -> None:
        """Store `key` and `value` [T, num_key_value_heads, head_dim] at `slots`, int64 [T]: page * 16 + offset."""
        self.keys[layer].flatten(0, 1)[slots] = key
        self.values[layer].flatten(0, 1)[slots] = value
