"""4-bit integers with a scale and a zero point for every 128 of them along K, as GPTQ and AWQ checkpoints have them.

A number is (code - zero) * scale. Symmetric weights have zero = 8.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokenwatt_kernels.number_formats.checks import check_codes, check_groups, check_numbers, check_scales
from tokenwatt_kernels.number_formats.nibbles import pack_nibbles, unpack_nibbles

GROUP = 128
SYMMETRIC_ZERO = 8
SCALE_DTYPES = (torch.float16, torch.bfloat16)


class Int4(NamedTuple):
    """codes: uint8 [..., N, K / 2], two codes per byte. scales: float16 or bfloat16 [..., N, K / 128]. zeros: uint8, 0
    to 15, of the same shape."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor


def pack_int4(weight: Tensor) -> Int4:
    """A weight [..., N, K] with symmetric codes 1 to 15, rounded to the nearest, ties to even.

    The scale is the largest magnitude of a group divided by 7, in the dtype of a 16-bit weight or else in bfloat16; of
    zeros it is 1, and so it is where 16 bits cannot hold it. Rounding moves a number by at most half a scale, and at
    the ends by the little by which the scale itself is rounded.
    Raises TypeError for another dtype than float32, float16 and bfloat16, ValueError for K that 128 does not divide,
    NaN and infinity.
    """
    check_numbers("weight", weight)
    check_groups("weight", weight, GROUP)
    groups = weight.float().unflatten(-1, (-1, GROUP))
    scale_dtype = weight.dtype if weight.dtype in SCALE_DTYPES else torch.bfloat16
    scales = (groups.abs().amax(-1) / (SYMMETRIC_ZERO - 1)).to(scale_dtype)
    scales = torch.where(scales == 0, 1, scales)
    steps = (groups / scales.float().unsqueeze(-1)).round().clamp(1 - SYMMETRIC_ZERO, SYMMETRIC_ZERO - 1)
    codes = (steps + SYMMETRIC_ZERO).to(torch.uint8).flatten(-2)
    return Int4(pack_nibbles(codes), scales, torch.full_like(scales, SYMMETRIC_ZERO, dtype=torch.uint8))


def dequantise_int4(packed: Int4, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight [..., N, K] that the codes stand for."""
    check_int4(packed)
    codes = unpack_nibbles(packed.codes).unflatten(-1, (-1, GROUP))
    steps = codes.float() - packed.zeros.float().unsqueeze(-1)
    return (steps * packed.scales.float().unsqueeze(-1)).flatten(-2).to(dtype)


def check_int4(packed: Int4) -> None:
    """Raise unless the parts have the dtypes and shapes of Int4."""
    check_codes("codes", packed.codes)
    check_codes("zeros", packed.zeros)
    if packed.scales.dtype not in SCALE_DTYPES:
        raise TypeError(f"scales must have dtype {' or '.join(map(str, SCALE_DTYPES))}, got {packed.scales.dtype}")
    check_scales(packed.scales, packed.codes, GROUP // 2)
    if packed.zeros.shape != packed.scales.shape:
        raise ValueError(
            f"zeros must have the shape of scales, {list(packed.scales.shape)}, got {list(packed.zeros.shape)}"
        )
