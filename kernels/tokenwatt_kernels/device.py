"""What the launchers ask a CUDA device, asked once."""

from __future__ import annotations

from functools import cache

import torch


@cache
def capability(device: torch.device) -> int:
    """Compute capability as major * 10 + minor: 90 for an H200."""
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor


@cache
def multiprocessors(device: torch.device) -> int:
    """Number of streaming multiprocessors: 132 for an H200."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def check_supported(device: torch.device) -> None:
    """Raise unless `device` is one that the public functions dispatch on."""
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"tensors must be on a cpu or cuda device, got {device}")
