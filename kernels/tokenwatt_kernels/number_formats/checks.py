"""Argument checks that every number format makes before it quantises."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels.arguments import FLOAT_DTYPES


def check_numbers(name: str, value: Tensor, least_axes: int = 1) -> None:
    """Raise unless `value` is a tensor of finite float32, float16 or bfloat16 numbers with enough axes."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must have dtype {' or '.join(map(str, FLOAT_DTYPES))}, got {value.dtype}")
    if value.dim() < least_axes:
        raise ValueError(f"{name} must have at least {least_axes} axes, got {list(value.shape)}")
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")


def check_groups(name: str, value: Tensor, group: int) -> None:
    """Raise unless the last axis is made of whole groups."""
    if value.shape[-1] % group:
        raise ValueError(f"{name} must have K divisible by {group}, got {value.shape[-1]}")


def check_codes(name: str, value: Tensor, dtype: torch.dtype = torch.uint8) -> None:
    """Raise unless `value` is a tensor of codes of one dtype."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype != dtype:
        raise TypeError(f"{name} must have dtype {dtype}, got {value.dtype}")


def check_scales(scales: Tensor, codes: Tensor, codes_per_scale: int) -> None:
    """Raise unless there is one scale for every `codes_per_scale` elements of codes' last axis, in the same rows."""
    wanted = [*codes.shape[:-1], codes.shape[-1] // codes_per_scale]
    if list(scales.shape) != wanted or codes.shape[-1] % codes_per_scale:
        raise ValueError(f"scales must have shape {wanted} for codes {list(codes.shape)}, got {list(scales.shape)}")
