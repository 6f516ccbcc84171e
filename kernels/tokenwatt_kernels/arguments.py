"""Argument checks of the launchers: each error names the argument, what was found and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MIN_HEAD_DIM, MAX_HEAD_DIM = 16, 256


def check_tensor(name: str, value: Tensor, dims: Sequence[str], dtypes: Sequence[torch.dtype] = FLOAT_DTYPES) -> None:
    """Raise unless `value` is a tensor with the axes `dims`, an allowed dtype, and a contiguous last axis."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dim() != len(dims):
        raise ValueError(f"{name} must have shape [{', '.join(dims)}], got {list(value.shape)}")
    if value.dtype not in dtypes:
        raise TypeError(f"{name} must have dtype {' or '.join(map(str, dtypes))}, got {value.dtype}")
    if value.shape[-1] > 1 and value.stride(-1) != 1:
        raise ValueError(f"{name} must be contiguous along its last axis, got strides {value.stride()}")


def check_matches(name: str, value: Tensor, like_name: str, like: Tensor) -> None:
    """Raise unless both tensors have the same dtype and lie on the same device."""
    if value.dtype != like.dtype:
        raise TypeError(f"{name} must have the dtype of {like_name}, {like.dtype}, got {value.dtype}")
    check_device(name, value, like_name, like)


def check_device(name: str, value: Tensor, like_name: str, like: Tensor) -> None:
    """Raise unless both tensors lie on the same device."""
    if value.device != like.device:
        raise ValueError(f"{name} must be on the device of {like_name}, {like.device}, got {value.device}")


def check_size(name: str, axis: str, found: int, allowed: int) -> None:
    """Raise unless one axis has the size that another argument fixes."""
    if found != allowed:
        raise ValueError(f"{name} must have {axis} = {allowed}, got {found}")


def check_heads(query_heads: int, kv_heads: int, head_dim: int) -> None:
    """Raise unless the query heads divide evenly over the KV heads and the kernels support the head dimension."""
    if kv_heads < 1 or query_heads < 1 or query_heads % kv_heads:
        raise ValueError(f"q must have a positive multiple of k's {kv_heads} heads, got {query_heads} heads")
    power_of_two = head_dim > 0 and head_dim & (head_dim - 1) == 0
    if not (power_of_two and MIN_HEAD_DIM <= head_dim <= MAX_HEAD_DIM):
        raise ValueError(f"head_dim must be a power of two from {MIN_HEAD_DIM} to {MAX_HEAD_DIM}, got {head_dim}")


def resolve_scale(scale: float | None, head_dim: int) -> float:
    """The softmax scale: `scale`, or 1/sqrt(head_dim) when it is None. Raises ValueError unless positive."""
    if scale is None:
        return head_dim**-0.5
    if not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}")
    return float(scale)
