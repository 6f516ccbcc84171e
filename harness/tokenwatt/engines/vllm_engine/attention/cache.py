"""vLLM's blocks as the pages that the kernels read.

vLLM keeps a layer's cache as blocks of N tokens, in each of which every head of a token has its key and then its value.
The kernels copy tiles of keys by hardware only where keys follow each other at one distance. What lies in a block is
the backend's own affair: here its first half are keys [N, H, D], its second half values. So block b is pages 2 b and
2 b + 1 of one even pool, and values are the same pool one page further.
"""

from __future__ import annotations

from math import prod

from torch import Tensor


def pages(cache: Tensor, head_size: int) -> tuple[Tensor, Tensor]:
    """Keys and values [2 B - 1, N, H, D] of a cache [B, H, N, 2 D]: those of block b are page 2 b of each.

    Raises:
        ValueError: blocks are not dense in memory, or do not follow each other.
    """
    blocks, heads, tokens, _ = cache.shape
    _check(cache, head_size)
    page = tokens * heads * head_size
    shape, strides = (max(2 * blocks - 1, 0), tokens, heads, head_size), (page, heads * head_size, head_size, 1)
    begin = cache.storage_offset()
    return cache.as_strided(shape, strides, begin), cache.as_strided(shape, strides, begin + page)


def blocks(cache: Tensor, head_size: int) -> tuple[Tensor, Tensor]:
    """Keys and values [B, N, H, D] of a cache [B, H, N, 2 D] by the numbers of vLLM's blocks, to be written to.

    Raises:
        ValueError: as `pages`.
    """
    keys, values = pages(cache, head_size)
    return keys[::2], values[::2]


def _check(cache: Tensor, head_size: int) -> None:
    inner, strides = cache.shape[1:], cache.stride()
    if cache.shape[3] != 2 * head_size:
        raise ValueError(f"the cache must have 2 D = {2 * head_size} numbers for each head of a token, got {inner[2]}")
    reach = 1 + sum((size - 1) * stride for size, stride in zip(inner, strides[1:], strict=True))
    if strides[0] != prod(inner) or reach != prod(inner):
        raise ValueError(
            f"blocks of {prod(inner)} numbers must lie side by side, each in one piece, got strides {strides};"
            " take VLLM_KV_CACHE_LAYOUT=LBNHC and no layers of other sizes in the group"
        )
