"""NVFP4: E2M1 numbers with an E4M3 scale for every 16 of them along K, and one fp32 scale for all.

NVIDIA, "Pretraining Large Language Models with NVFP4", arXiv 2509.25149. A number is code * scale * tensor_scale.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokenwatt_kernels.arguments import FLOAT8
from tokenwatt_kernels.number_formats import e2m1, float8
from tokenwatt_kernels.number_formats.checks import check_codes, check_groups, check_numbers, check_scales
from tokenwatt_kernels.number_formats.nibbles import pack_nibbles, unpack_nibbles

GROUP = 16
LEAST_SCALE = 2.0**-9  # the smallest e4m3 number but 0


class Nvfp4(NamedTuple):
    """codes: uint8 [..., N, K / 2], two per byte. scales: float8_e4m3fn [..., N, K / 16]. tensor_scale: fp32 [1]."""

    codes: Tensor
    scales: Tensor
    tensor_scale: Tensor


def pack_nvfp4(weight: Tensor, tensor_scale: Tensor | None = None) -> Nvfp4:
    """A weight [..., N, K]. Numbers and scales are rounded to the nearest, ties to even.

    tensor_scale: fp32 [1], such as that of an earlier packing; None takes the largest magnitude / (448 * 6), so that
        the largest scale is 448. The scale of zeros is 1, and no other group has one of 0.
    Raises TypeError for another dtype than float32, float16 and bfloat16, ValueError for K that 16 does not divide, NaN
    and infinity.
    """
    check_numbers("weight", weight)
    check_groups("weight", weight, GROUP)
    groups = weight.float().unflatten(-1, (-1, GROUP))
    largest = groups.abs().amax(-1)
    if tensor_scale is None:
        overall = largest.amax().reshape(1) if largest.numel() else torch.zeros(1, device=weight.device)
        tensor_scale = float8.scale_of(overall / e2m1.LARGEST)
    scales = (largest / (e2m1.LARGEST * tensor_scale)).clamp(LEAST_SCALE, float8.LARGEST).to(FLOAT8)
    scales = torch.where(largest == 0, 1.0, scales.float()).to(FLOAT8)
    codes = e2m1.encode(groups / (scales.float() * tensor_scale).unsqueeze(-1)).flatten(-2)
    return Nvfp4(pack_nibbles(codes), scales, tensor_scale)


def dequantise_nvfp4(packed: Nvfp4, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight [..., N, K] that the codes stand for."""
    check_nvfp4(packed)
    values = e2m1.decode(unpack_nibbles(packed.codes)).unflatten(-1, (-1, GROUP))
    return (values * (packed.scales.float() * packed.tensor_scale).unsqueeze(-1)).flatten(-2).to(dtype)


def check_nvfp4(packed: Nvfp4) -> None:
    """Raise unless the parts have the dtypes and shapes of Nvfp4."""
    check_codes("codes", packed.codes)
    check_codes("scales", packed.scales, FLOAT8)
    check_codes("tensor_scale", packed.tensor_scale, torch.float32)
    check_scales(packed.scales, packed.codes, GROUP // 2)
    if packed.tensor_scale.numel() != 1:
        raise ValueError(f"tensor_scale must have 1 element, got {packed.tensor_scale.numel()}")
