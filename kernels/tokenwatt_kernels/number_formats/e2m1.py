"""E2M1, the 4-bit float of MXFP4 and NVFP4: a sign, two bits of exponent, one of significand.

OCP Microscaling Formats (MX) Specification v1.0, section 5.3.3. Code 8 is -0.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LARGEST = MAGNITUDES[-1]
SIGN = 8
_BETWEEN = tuple((low + high) / 2 for low, high in pairwise(MAGNITUDES))


def encode(x: Tensor) -> Tensor:
    """The codes 0 to 15, uint8, of the nearest numbers: ties go to the even code, and what is beyond 6 to 6."""
    magnitude = x.abs()
    codes = torch.where(x.signbit(), SIGN, 0).to(torch.uint8)
    for lower, middle in enumerate(_BETWEEN):
        codes += magnitude >= middle if lower % 2 else magnitude > middle
    return codes


def decode(codes: Tensor) -> Tensor:
    """The numbers of codes 0 to 15, fp32."""
    values = torch.tensor([*MAGNITUDES, *(-magnitude for magnitude in MAGNITUDES)], device=codes.device)
    return values[codes.int()]
