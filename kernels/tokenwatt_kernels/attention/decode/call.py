"""Attention of one new token per sequence over a paged key/value cache."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels import device
from tokenwatt_kernels.arguments import (
    check_device,
    check_heads,
    check_matches,
    check_size,
    check_tensor,
    resolve_scale,
)
from tokenwatt_kernels.attention.decode.reference import decode_attention_reference
from tokenwatt_kernels.attention.decode.tiles import choose, choose_splits


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    *,
    scale: float | None = None,
) -> Tensor:
    """Grouped-query attention of one query token per sequence over its cached tokens.

    q: [B, Hq, D], one of float32, float16 or bfloat16; Hq a multiple of Hkv, D a power of two from 16 to 256.
    k_cache, v_cache: [pages, page_size, Hkv, D], in the dtype of q and with the same strides.
    block_table: [B, max_pages] int32; entry [b, i] is the page of tokens i*page_size .. of sequence b. Entries past
        the context are never read.
    context_lens: [B] int32, the tokens in the cache, the current one included. 0 gives an output row of zeros.
    scale: factor of the scores before the softmax, > 0; None means 1/sqrt(D).

    Returns [B, Hq, D] in the dtype of q: the Triton kernel's answer on CUDA, the torch reference's on a CPU.
    Raises TypeError or ValueError, before any launch, for arguments other than these. The values in block_table and
    context_lens are not read back from the device, so they are trusted.
    """
    check_tensor("q", q, ("B", "Hq", "D"))
    check_tensor("k_cache", k_cache, ("pages", "page_size", "Hkv", "D"))
    check_tensor("v_cache", v_cache, ("pages", "page_size", "Hkv", "D"))
    check_tensor("block_table", block_table, ("B", "max_pages"), (torch.int32,))
    check_tensor("context_lens", context_lens, ("B",), (torch.int32,))
    sequences, query_heads, head_dim = q.shape
    _, page_size, kv_heads, _ = k_cache.shape
    check_heads(query_heads, kv_heads, head_dim)
    for name, cache in (("k_cache", k_cache), ("v_cache", v_cache)):
        check_matches(name, cache, "q", q)
        check_size(name, "D", cache.shape[3], head_dim)
    if v_cache.shape != k_cache.shape or v_cache.stride() != k_cache.stride():
        raise ValueError(
            f"v_cache must have the shape and strides of k_cache, {list(k_cache.shape)} and {k_cache.stride()}, "
            f"got {list(v_cache.shape)} and {v_cache.stride()}"
        )
    for name, tensor in (("block_table", block_table), ("context_lens", context_lens)):
        check_device(name, tensor, "q", q)
        check_size(name, "B", tensor.shape[0], sequences)
    scale = resolve_scale(scale, head_dim)
    device.check_supported(q.device)
    if q.device.type == "cpu":
        return decode_attention_reference(q, k_cache, v_cache, block_table, context_lens, scale)

    from tokenwatt_kernels.attention.decode.kernel import launch

    tile = choose(query_heads // kv_heads, head_dim, q.element_size(), device.capability(q.device))
    max_context = block_table.shape[1] * page_size
    splits = choose_splits(sequences, kv_heads, max_context, tile.block_n, device.multiprocessors(q.device))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    launch(q, k_cache, v_cache, block_table, context_lens, scale, out, tile, splits)
    return out
