"""Paged decode attention in plain torch: the truth that the kernel is held to, and the CPU path of the engine."""

from __future__ import annotations

import torch
from torch import Tensor


def decode_attention_reference(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, block_table: Tensor, context_lens: Tensor, scale: float
) -> Tensor:
    """softmax(scale * q k^T) v over the cached tokens of each sequence, in the dtype of q.

    q: [B, Hq, D]; caches: [pages, page_size, Hkv, D]; block_table: [B, max_pages]; context_lens: [B].
    Returns [B, Hq, D]; a sequence with no cached token gets zeros.
    """
    page_size = k_cache.shape[1]
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    for sequence, length in enumerate(context_lens.tolist()):
        if length == 0:
            continue
        pages = block_table[sequence, : -(-length // page_size)]
        k = k_cache[pages].flatten(0, 1)[:length]
        v = v_cache[pages].flatten(0, 1)[:length]
        out[sequence] = _attention(q[sequence], k, v, scale)
    return out


def _attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """One sequence: q [Hq, D], k and v [L, Hkv, D] -> [Hq, D]. Query heads h*G .. h*G+G-1 share KV head h."""
    grouped = q.unflatten(0, (k.shape[1], -1))
    probabilities = (torch.einsum("hgd,khd->hgk", grouped, k) * scale).softmax(dim=-1)
    return torch.einsum("hgk,khd->hgd", probabilities, v).flatten(0, 1)
