"""Argument checks of the launchers: each error names the argument, what was found and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FLOAT8 = torch.float8_e4m3fn
CACHE_DTYPES = (*FLOAT_DTYPES, FLOAT8)


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
