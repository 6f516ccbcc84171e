"""Where an engine runs: the device that is asked for, if this machine has it, and its name for the meters."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import torch

from tokenwatt.errors import UserError


def choose_device(wanted: str, count: int = 1) -> torch.device:
    """The device, or the first of `count` GPUs.

    wanted: `auto`, `cpu` or `cuda`.

    Raises:
        UserError: a GPU is asked for and torch finds none, or fewer than `count`.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError(
            "device 'cuda' was asked for, but torch finds no GPU; use device = \"cpu\" or run `tokenwatt doctor`"
        )
    if not available or wanted == "cpu":
        return torch.device("cpu")
    if count > torch.cuda.device_count():
        raise UserError(f"tensor_parallel is {count}, and torch finds {torch.cuda.device_count()} GPUs")
    return torch.device("cuda", 0)


def gpu_uuid(index: int) -> str:
    """NVML UUID of torch's GPU `index`."""
    return f"GPU-{torch.cuda.get_device_properties(index).uuid}"


def version_of(package: str) -> str | None:
    """Version of an installed package; None where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
