"""Causal prefill attention in plain torch: the truth that the kernel is held to, and the CPU path of the engine."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def prefill_attention_reference(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    """softmax(scale * q k^T, causal) v, one sequence after another, in the dtype of q.

    q: [T, Hq, D]; k, v: [T, Hkv, D]; cu_seqlens: [B + 1], where sequence b owns rows cu_seqlens[b]:cu_seqlens[b + 1].
    Returns [T, Hq, D].
    """
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    bounds = cu_seqlens.tolist()
    for first, last in pairwise(bounds):
        out[first:last] = _causal_attention(q[first:last], k[first:last], v[first:last], scale)
    return out


def _causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """One sequence: q [L, Hq, D], k and v [L, Hkv, D] -> [L, Hq, D]. Query heads h*G .. h*G+G-1 share KV head h."""
    length, kv_heads, _ = k.shape
    grouped = q.unflatten(1, (kv_heads, -1))
    scores = torch.einsum("qhgd,khd->hgqk", grouped, k) * scale
    future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    probabilities = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
    return torch.einsum("hgqk,khd->qhgd", probabilities, v).flatten(1, 2)
