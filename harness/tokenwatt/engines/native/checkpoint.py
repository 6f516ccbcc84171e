"""Where tensors come from: made at random on the device, or read from a Hugging Face safetensors folder."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenwatt.errors import UserError

INIT_STD = 0.02
"""Spread of random weights; speed and nearly all of the power do not depend on it."""
MXFP4_SCALE_CODE = 120
"""Of random mxfp4 weights: 2^-7 times numbers of up to 6 has about the spread of the others."""
OUTER_PREFIX = "language_model."
"""What stands before the names of a language model inside a model that also sees."""


class RandomWeights:
    """A `weights.Source` of normal numbers: the same seed gives the same weights on the same kind of device."""

    def __init__(self, dtype: torch.dtype, device: torch.device, seed: int, *, norm_unit_offset: bool = False) -> None:
        self._dtype = dtype
        self._device = device
        self._norm = 0.0 if norm_unit_offset else 1.0
        self._generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """The next tensor; names matter for norms, and for what is no floating-point number."""
        tensor = torch.empty(shape, dtype=dtype or self._dtype, device=self._device)
        if name.endswith("norm.weight"):
            return tensor.fill_(self._norm)
        if name.endswith("_scales"):
            return tensor.fill_(MXFP4_SCALE_CODE)
        if tensor.dtype == torch.uint8:
            return tensor.random_(0, 256, generator=self._generator)
        return tensor.normal_(0.0, INIT_STD, generator=self._generator)


class SavedWeights:
    """A `weights.Source` that reads a folder of one or more safetensors files.

    Raises:
        UserError: no such folder, a missing or damaged file.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        self._folder = folder
        self._dtype = dtype
        self._files = find_tensors(folder)
        self._handles = {path: _open(path, device) for path in sorted(set(self._files.values()))}
        self._prefix = OUTER_PREFIX if any(name.startswith(OUTER_PREFIX) for name in self._files) else ""

    def __call__(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor by name.

        Raises:
            UserError: it is not there, or has another shape.
        """
        name = self._prefix + name
        if name not in self._files:
            raise UserError(f"{self._folder}: no tensor {name!r}, which config.json demands")
        tensor = self._handles[self._files[name]].get_tensor(name)
        if tuple(tensor.shape) != shape:
            found = tuple(tensor.shape)
            raise UserError(f"{self._folder}: tensor {name!r} has shape {found}, config.json demands {shape}")
        return tensor.to(dtype or self._dtype)


def find_tensors(folder: Path) -> dict[str, Path]:
    """Tensor name -> file; opens nothing large.

    Raises:
        UserError: no such folder, no weights in it, a damaged index or single file, a shard that is not there.
    """
    if not folder.is_dir():
        raise UserError(f"no such weights folder: {folder}; allowed: 'random', a folder with *.safetensors, a hub id")
    if find_spec("safetensors") is None:
        raise UserError("reading weights needs safetensors; install it with: pip install 'tokenwatt[bench]'")
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        return _from_index(folder, index)
    if single.is_file():
        return dict.fromkeys(_open(single, torch.device("cpu")).keys(), single)
    raise UserError(f"{folder}: holds neither model.safetensors nor model.safetensors.index.json")


def _from_index(folder: Path, index: Path) -> dict[str, Path]:
    try:
        files = {
            name: folder / file for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: damaged ({error}); download it again") from None
    missing = sorted({path.name for path in files.values() if not path.is_file()})
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{folder}: shard {missing[0]}{more} of {index.name} is missing; download it again")
    return files


def _open(path: Path, device: torch.device) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt", device=str(device))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged or cut short ({error}); download it again") from None
