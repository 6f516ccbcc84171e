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
LAYOUTS = (
    ("model.", "lm_head."),
    ("language_model.model.", "language_model.lm_head."),
    ("model.language_model.", "lm_head."),
)
"""How the names of decoder and head begin: alone; inside a model that also sees, as Gemma 3 was published; and there as
transformers 5 has them in memory."""


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
        found = (layout for layout in LAYOUTS if f"{layout[0]}embed_tokens.weight" in self._files)
        self._layout = next(found, LAYOUTS[0])

    def __call__(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor by name.

        Raises:
            UserError: it is not there, or has another shape.
        """
        name = self._name_here(name)
        if name not in self._files:
            raise UserError(
                f"{self._folder}: no tensor {name!r} among its {len(self._files)}, but the config.json demands it; take"
                " weights and config.json of one model"
            )
        tensor = self._handles[self._files[name]].get_tensor(name)
        if tuple(tensor.shape) != shape:
            found = tuple(tensor.shape)
            raise UserError(
                f"{self._folder}: tensor {name!r} has shape {found}, the config.json demands {shape}; take weights and"
                " config.json of one model"
            )
        return tensor.to(dtype or self._dtype)

    def _name_here(self, name: str) -> str:
        for usual, here in zip(LAYOUTS[0], self._layout, strict=True):
            if name.startswith(usual):
                return here + name.removeprefix(usual)
        return name


def find_tensors(folder: Path) -> dict[str, Path]:
    """Tensor name -> file; of the files themselves only the headers are read.

    Raises:
        UserError: no such folder, no weights in it, a damaged index, a shard that is missing, damaged or cut short.
    """
    if not folder.is_dir():
        raise UserError(f"no such weights folder: {folder}")
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
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {name: folder / file for name, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{index}: damaged ({type(error).__name__}: {error}); it must hold a weight_map, download it again"
        ) from None
    shards = sorted(set(files.values()))
    missing = [path.name for path in shards if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{folder}: shard {missing[0]}{more} of {index.name} is missing; download it again")
    held = {path: set(_open(path, torch.device("cpu")).keys()) for path in shards}
    astray = next((name for name, path in files.items() if name not in held[path]), None)
    if astray is not None:
        raise UserError(f"{index}: says that {astray!r} is in {files[astray].name}, which has no such tensor")
    return files


def _open(path: Path, device: torch.device) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt", device=str(device))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged or cut short ({error}); download it again") from None
