"""Rotary embedding and append in plain torch: the truth of the kernel, and the CPU path of the engine."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels.fused.norm.reference import normed_reference
from tokenwatt_kernels.fused.rope.operands import Append, Rotation
from tokenwatt_kernels.number_formats.float8 import LARGEST


def rotated_reference(heads: Tensor, rotation: Rotation, weight: Tensor | None) -> Tensor:
    """heads [T, h, D], normed with `weight` [D] unless None, rotated; in fp32, or in fp64 where heads are fp64."""
    wide = heads.to(torch.promote_types(heads.dtype, torch.float32))
    if weight is not None:
        wide = normed_reference(wide, weight, eps=rotation.eps, unit_offset=rotation.unit_offset)
    cos, sin = (table[rotation.positions.long(), None].to(wide.dtype) for table in (rotation.cos, rotation.sin))
    turning, rest = wide.split([2 * cos.shape[-1], wide.shape[-1] - 2 * cos.shape[-1]], dim=-1)
    axis = -1 if rotation.interleaved else -2
    first, second = turning.unflatten(-1, (-1, 2) if rotation.interleaved else (2, -1)).unbind(axis)
    turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=axis)
    return torch.cat([turned.flatten(-2), rest], dim=-1)


def append_reference(append: Append, k: Tensor, v: Tensor) -> None:
    """Write k [T, Hkv, D] and v [T, Hkv, Dv], divided by their scales and saturated, at slots that are not negative."""
    is_taken = append.slots >= 0
    slots, page_size = append.slots[is_taken].long(), append.k_cache.shape[1]
    for cache, heads, scale in ((append.k_cache, k, append.k_scale), (append.v_cache, v, append.v_scale)):
        stored = heads[is_taken]
        if scale is not None:
            stored = stored.float() / scale[:, None]
        if cache.dtype == torch.float8_e4m3fn:
            stored = stored.float().clamp(-LARGEST, LARGEST)
        cache[slots // page_size, slots % page_size] = stored.to(cache.dtype)
