"""The element types of the kernels, and how close each must come to the truth.

Every kernel accumulates in fp32 (of float8, the tensor cores of sm_89 and sm_90 keep some 14 bits), so its error grows
with the number n of terms that one output sums. Each addition rounds by at most u = 2^-24 of the partial sum, by
u/sqrt(3) in RMS at worst. After j random terms the partial sum is sqrt(j) in size, so n additions one after another
leave sqrt(1 + 2 + ... + n) * u/sqrt(3) = n * u/sqrt(6), which is u * sqrt(n/6) of the result. Splitting the sum, as
tiles do, only makes it smaller. The allowance is u * sqrt(n), sqrt(6) = 2.4 times that, or the floor of the type where
that is larger: for fp16 and bf16 up to n = 2^26, so always.

The same share of the largest answer bounds the largest error: of random data, the largest error is to the RMS error as
the largest answer is to the RMS answer, or nearly. In attention n is the longer of two sums, over keys in p.v and over
the head dimension in q.k; together they leave at most sqrt(2) * u * sqrt(n/6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FP32_ROUNDING = 2.0**-24
"""Largest relative error of one rounding to fp32."""


@dataclass(frozen=True, slots=True)
class Dtype:
    """One element type, under its torch name.

    bytes: size of one element.
    triton_name: its name in a kernel signature.
    has_tensor_core_path: whether the kernels multiply it on tensor cores (fp32 asks for exact fp32 products).
    max_floor: allowed largest error of a short sum, as a fraction of the truth's largest value, on top of twice torch's
        own error.
    rms_floor: allowed RMS error of a short sum, as a fraction of the truth's RMS.
    out_name: torch name of what the kernels answer in.
    """

    bytes: int
    triton_name: str
    has_tensor_core_path: bool
    max_floor: float
    rms_floor: float
    out_name: str

    @property
    def out_bytes(self) -> int:
        """Size of one element of an answer."""
        return DTYPES[self.out_name].bytes

    def max_allowance(self, terms: int) -> float:
        """max_floor, or more where outputs sum so many terms that fp32 accumulation needs it."""
        return max(self.max_floor, FP32_ROUNDING * math.sqrt(terms))

    def rms_limit(self, terms: int) -> float:
        """rms_floor, or more where outputs sum so many terms that fp32 accumulation needs it."""
        return max(self.rms_floor, FP32_ROUNDING * math.sqrt(terms))


# The max floors are one rounding step of the type at the truth's largest value: 2^-23 (doubled), 2^-11, 2^-8 and 2^-4.
# float8 is for attention, where each weight of the sum is rounded by at most 2^-4 of itself, 2^-4 / sqrt(3) = 0.036 in
# RMS at worst, and the rounded weights leave that share of the answer.
DTYPES: dict[str, Dtype] = {
    "float32": Dtype(4, "fp32", False, max_floor=2.4e-7, rms_floor=1e-6, out_name="float32"),
    "float16": Dtype(2, "fp16", True, max_floor=4.9e-4, rms_floor=1e-3, out_name="float16"),
    "bfloat16": Dtype(2, "bf16", True, max_floor=3.9e-3, rms_floor=4e-3, out_name="bfloat16"),
    "float8_e4m3fn": Dtype(1, "fp8e4nv", True, max_floor=6.25e-2, rms_floor=3.6e-2, out_name="bfloat16"),
}
