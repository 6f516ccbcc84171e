"""Causal attention over a packed batch of prompts."""

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
from tokenwatt_kernels.attention.prefill.reference import prefill_attention_reference
from tokenwatt_kernels.attention.prefill.tiles import choose


def prefill_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, *, scale: float | None = None
) -> Tensor:
    """Causal grouped-query attention of every sequence in a packed batch.

    q: [T, Hq, D], k and v: [T, Hkv, D], one of float32, float16 or bfloat16. T is the sum of the sequence lengths,
        Hq a multiple of Hkv, D a power of two from 16 to 256.
    cu_seqlens: [B + 1] int32 on the same device; sequence b owns rows cu_seqlens[b]:cu_seqlens[b + 1].
    max_seqlen: at least the longest sequence. It sizes the launch; rows beyond it are not computed.
    scale: factor of the scores before the softmax, > 0; None means 1/sqrt(D).

    Returns [T, Hq, D] in the dtype of q: the Triton kernel's answer on CUDA, the torch reference's on a CPU.
    Raises TypeError or ValueError, before any launch, for arguments other than these. The values in cu_seqlens are not
    read back from the device, so they are trusted.
    """
    check_tensor("q", q, ("T", "Hq", "D"))
    check_tensor("k", k, ("T", "Hkv", "D"))
    check_tensor("v", v, ("T", "Hkv", "D"))
    check_tensor("cu_seqlens", cu_seqlens, ("B + 1",), (torch.int32,))
    tokens, query_heads, head_dim = q.shape
    check_heads(query_heads, k.shape[1], head_dim)
    for name, tensor in (("k", k), ("v", v)):
        check_matches(name, tensor, "q", q)
        check_size(name, "T", tensor.shape[0], tokens)
        check_size(name, "D", tensor.shape[2], head_dim)
    check_size("v", "Hkv", v.shape[1], k.shape[1])
    check_device("cu_seqlens", cu_seqlens, "q", q)
    if cu_seqlens.numel() == 0:
        raise ValueError("cu_seqlens must have at least one element, got shape [0]")
    if max_seqlen < 0:
        raise ValueError(f"max_seqlen must be >= 0, got {max_seqlen}")
    scale = resolve_scale(scale, head_dim)
    device.check_supported(q.device)
    if q.device.type == "cpu":
        return prefill_attention_reference(q, k, v, cu_seqlens, scale)

    from tokenwatt_kernels.attention.prefill.kernel import launch

    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    launch(q, k, v, cu_seqlens, max_seqlen, scale, out, choose(head_dim, q.element_size(), device.capability(q.device)))
    return out
