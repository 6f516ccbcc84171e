"""RMS normalisation in plain torch: the truth of the kernel, and the CPU path of the engine."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels.number_formats.float8 import LARGEST as FLOAT8_MAX

LEAST_LARGEST = 2.0**-100
"""A row or block whose largest value is smaller counts as zero and has the scale 1."""


def normed_reference(x: Tensor, weight: Tensor, *, eps: float, unit_offset: bool) -> Tensor:
    """x [..., H] / sqrt(mean(x^2) + eps) * weight [H], in fp32, or in fp64 where x is fp64."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    factors = weight.to(wide.dtype) + float(unit_offset)
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * factors


def scales_reference(normed: Tensor, width: int) -> Tensor:
    """For each `width` elements along H the scale with which the largest becomes 448: [..., H / width]."""
    largest = normed.abs().unflatten(-1, (-1, width)).amax(-1)
    return torch.where(largest < LEAST_LARGEST, 1.0, largest / FLOAT8_MAX)


def quantised_reference(normed: Tensor, scales: Tensor) -> Tensor:
    """normed [..., H] / scales [..., n] for each H / n elements, as float8 e4m3; what is out of range becomes +-448."""
    parts = normed.unflatten(-1, (scales.shape[-1], -1)) / scales[..., None]
    return parts.clamp(-FLOAT8_MAX, FLOAT8_MAX).to(torch.float8_e4m3fn).flatten(-2)


def dequantised(quantised: Tensor, scales: Tensor) -> Tensor:
    """What quantised rows [..., H] with scales [..., n] stand for, in fp64."""
    return (quantised.double().unflatten(-1, (scales.shape[-1], -1)) * scales.double()[..., None]).flatten(-2)
