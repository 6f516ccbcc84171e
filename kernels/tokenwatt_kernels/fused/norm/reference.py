"""RMS normalisation in plain torch: the truth of the kernel, and the CPU path of the engine."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels.number_formats.float8 import dequantise, scale_of, to_float8


def normed_reference(x: Tensor, weight: Tensor, *, eps: float, unit_offset: bool) -> Tensor:
    """x [..., H] / sqrt(mean(x^2) + eps) * weight [H], in fp32, or in fp64 where x is fp64."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    factors = weight.to(wide.dtype) + float(unit_offset)
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * factors


def scales_reference(normed: Tensor, width: int) -> Tensor:
    """The scale of each `width` elements along H: [..., H / width]."""
    return scale_of(normed.abs().unflatten(-1, (-1, width)).amax(-1))


def quantised_reference(normed: Tensor, scales: Tensor) -> Tensor:
    """normed [..., H] / scales [..., n] for each H / n elements, as float8 e4m3; what is out of range becomes +-448."""
    return to_float8(normed.unflatten(-1, (scales.shape[-1], -1)), scales[..., None]).flatten(-2)


def dequantised(quantised: Tensor, scales: Tensor) -> Tensor:
    """What quantised rows [T, H] with scales [T, n] or [1, n] stand for, in fp64."""
    parts = quantised.unflatten(-1, (scales.shape[-1], -1))
    return dequantise(parts, scales.expand(parts.shape[:-1]), torch.float64).flatten(-2)
