"""The element types of the kernels, and how close each must come to the truth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dtype:
    """One element type, under its torch name.

    bytes: size of one element.
    triton_name: its name in a kernel signature.
    has_tensor_core_path: whether the kernels multiply it on tensor cores (fp32 asks for exact fp32 products).
    max_floor: allowed largest error, as a fraction of the truth's largest value, on top of twice torch's own error.
    max_rms: allowed RMS error, as a fraction of the truth's RMS.
    """

    bytes: int
    triton_name: str
    has_tensor_core_path: bool
    max_floor: float
    max_rms: float


# The floors are one rounding step of the type at the truth's largest value: 2^-23 (doubled), 2^-11 and 2^-8.
DTYPES: dict[str, Dtype] = {
    "float32": Dtype(4, "fp32", False, max_floor=2.4e-7, max_rms=1e-6),
    "float16": Dtype(2, "fp16", True, max_floor=4.9e-4, max_rms=1e-3),
    "bfloat16": Dtype(2, "bf16", True, max_floor=3.9e-3, max_rms=4e-3),
}
