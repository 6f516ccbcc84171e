"""From checked operands to an answer: which tile of which family, or cuBLAS, and the launch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokenwatt_kernels import device, tables
from tokenwatt_kernels.arguments import FLOAT8
from tokenwatt_kernels.families import part
from tokenwatt_kernels.matmul.key import MatmulKey, make_key
from tokenwatt_kernels.matmul.library import library_matmul
from tokenwatt_kernels.matmul.library_tile import LibraryTile
from tokenwatt_kernels.matmul.operands import Operands
from tokenwatt_kernels.matmul.reference import matmul_reference


def key_for(family: str, operands: Operands, out: Tensor) -> MatmulKey:
    """What the tile for a call depends on besides the GPU."""
    return make_key(
        part(family, "tiles").ROWS,
        operands.m,
        operands.n,
        operands.k,
        operands.a.element_size(),
        is_gated=operands.is_gated,
        is_blocked=operands.scaling == "block",
        is_fast=operands.fast_accumulation,
        can_copy=operands.can_be_copied(out),
    )


def tile_for(family: str, operands: Operands, out: Tensor) -> Any:
    """The tile for a call on a GPU: one of the family's KERNELS."""
    gpu = operands.a.device
    return tables.tile_on(family, device.name(gpu), device.capability(gpu), key_for(family, operands, out))


def answer(family: str, operands: Operands) -> Tensor:
    """The answer for checked operands: of the kernel or of cuBLAS on a GPU, of the reference on a CPU."""
    if operands.a.device.type == "cpu":
        return matmul_reference(operands)
    if operands.a.dtype == FLOAT8:
        device.check_float8(operands.a.device, is_mixed=False)
    out = operands.new_out()
    return run(family, operands, out, tile_for(family, operands, out))


def run(family: str, operands: Operands, out: Tensor, tile: Any) -> Tensor:
    """The answer with a tile, in `out` unless it is cuBLAS's, which brings its own memory."""
    if isinstance(tile, LibraryTile):
        return library_matmul(operands)
    gpu = operands.a.device
    programs = tile.programs_per_multiprocessor * device.multiprocessors(gpu)
    launch = part(family, "kernel").launch
    launch(operands, out, tile, programs, promotes=operands.promotes(device.capability(gpu)))
    return out
