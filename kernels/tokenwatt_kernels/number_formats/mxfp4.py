"""MXFP4: E2M1 numbers with a power of two for every 32 of them along K.

OCP Microscaling Formats (MX) Specification v1.0: a scale is E8M0, 2^(code - 127); code 255 is NaN and never written.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokenwatt_kernels.number_formats import e2m1
from tokenwatt_kernels.number_formats.checks import check_codes, check_groups, check_numbers, check_scales
from tokenwatt_kernels.number_formats.nibbles import pack_nibbles, unpack_nibbles

GROUP = 32
BIAS = 127
LARGEST_EXPONENT = 2  # of an E2M1 number: 4 <= 6 < 8
LARGEST_SCALE = 254


class Mxfp4(NamedTuple):
    """codes: uint8 [..., N, K / 2], two per byte. scales: uint8 [..., N, K / 32]."""

    codes: Tensor
    scales: Tensor


def pack_mxfp4(weight: Tensor) -> Mxfp4:
    """A weight [..., N, K], experts and the like in leading axes.

    The exponent of a group is floor(log2(largest magnitude)) - 2, at least -127, as section 6.3 of the specification
    has it; of zeros it is 0. Numbers are rounded to the nearest, ties to the even code, and those between 6 and 8 times
    the scale become 6.
    Raises TypeError for another dtype than float32, float16 and bfloat16, ValueError for K that 32 does not divide, NaN
    and infinity.
    """
    check_numbers("weight", weight)
    check_groups("weight", weight, GROUP)
    groups = weight.float().unflatten(-1, (-1, GROUP))
    largest = groups.abs().amax(-1)
    exponents = torch.frexp(largest).exponent - 1 - LARGEST_EXPONENT  # frexp: a significand from 0.5 to 1
    exponents = torch.where(largest == 0, 0, exponents.clamp(min=-BIAS))
    codes = e2m1.encode(torch.ldexp(groups, -exponents.unsqueeze(-1))).flatten(-2)
    return Mxfp4(pack_nibbles(codes), (exponents + BIAS).to(torch.uint8))


def dequantise_mxfp4(packed: Mxfp4, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight [..., N, K] that the codes stand for: exact in float32 and bfloat16."""
    check_mxfp4(packed)
    values = e2m1.decode(unpack_nibbles(packed.codes)).unflatten(-1, (-1, GROUP))
    return torch.ldexp(values, packed.scales.int().unsqueeze(-1) - BIAS).flatten(-2).to(dtype)


def check_mxfp4(packed: Mxfp4) -> None:
    """Raise unless the parts have the dtypes and shapes of Mxfp4."""
    check_codes("codes", packed.codes)
    check_codes("scales", packed.scales)
    check_scales(packed.scales, packed.codes, GROUP // 2)
