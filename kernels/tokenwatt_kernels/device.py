"""What the launchers ask a CUDA device, asked once."""

from __future__ import annotations

import os
from functools import cache

import torch

NVFP4_CAPABILITY = 100


@cache
def capability(device: torch.device) -> int:
    """Compute capability as major * 10 + minor: 90 for an H200."""
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor


@cache
def name(device: torch.device) -> str:
    """What the driver calls the board, such as "NVIDIA H200"."""
    return torch.cuda.get_device_name(device)


@cache
def multiprocessors(device: torch.device) -> int:
    """Number of streaming multiprocessors: 132 for an H200."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def check_supported(device: torch.device) -> None:
    """Raise unless `device` is one that the public functions dispatch on.

    A GPU's tensors never go to Triton's interpreter, which gets bfloat16 silently wrong.
    """
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"tensors must be on a cpu or cuda device, got {device}")
    if device.type == "cuda" and os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError(
            "TRITON_INTERPRET must not be 1 for tensors on a GPU, because Triton's interpreter gets bfloat16 wrong;"
            " unset it, or interpret with `tokenwatt kernels check --device cpu`"
        )


def check_float8(device: torch.device, *, is_mixed: bool) -> None:
    """Raise unless the GPU multiplies float8, or, if `is_mixed`, turns it into another type.

    Before 3.9, triton writes code for the latter that sm_89 does not have.
    """
    import triton

    found = capability(device)
    has_mixed = found >= 90 or tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9)
    if found < 89 or (is_mixed and not has_mixed):
        raise ValueError(
            "float8_e4m3fn needs a GPU of sm_89, or sm_90 with triton < 3.9 and queries of another dtype, "
            f"got sm_{found} and triton {triton.__version__}"
        )


def check_nvfp4(device: torch.device) -> None:
    """Raise unless the GPU multiplies NVFP4 numbers."""
    found = capability(device)
    if found < NVFP4_CAPABILITY:
        raise ValueError(
            f"nvfp4 needs a GPU of sm_{NVFP4_CAPABILITY} or later, got sm_{found}; others take mxfp4 weights"
        )
