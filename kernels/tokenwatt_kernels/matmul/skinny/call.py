"""Matmul of few rows on a GPU: which tile, or cuBLAS, and the launch. The public function is `matmul.call.matmul`."""

from __future__ import annotations

from torch import Tensor

from tokenwatt_kernels import device, tables
from tokenwatt_kernels.arguments import FLOAT8
from tokenwatt_kernels.matmul.library import library_matmul
from tokenwatt_kernels.matmul.library_tile import LibraryTile
from tokenwatt_kernels.matmul.operands import Operands
from tokenwatt_kernels.matmul.reference import matmul_reference
from tokenwatt_kernels.matmul.skinny.tiles import (
    FAMILY,
    AnyTile,
    SkinnyKey,
    SkinnyTile,
    make_key,
)


def key_for(operands: Operands, out: Tensor) -> SkinnyKey:
    """What the tile for a call depends on besides the GPU."""
    return make_key(
        operands.m,
        operands.n,
        operands.k,
        operands.a.element_size(),
        is_gated=operands.activation != "none",
        is_blocked=operands.scaling == "block",
        can_copy=operands.can_be_copied(out),
    )


def tile_for(operands: Operands, out: Tensor) -> AnyTile:
    """The tile for a call on a GPU."""
    gpu = operands.a.device
    return tables.tile_on(FAMILY, device.name(gpu), device.capability(gpu), key_for(operands, out))


def answer(operands: Operands) -> Tensor:
    """The answer for checked operands: of the kernel or of cuBLAS on a GPU, of the reference on a CPU."""
    if operands.a.device.type == "cpu":
        return matmul_reference(operands)
    if operands.a.dtype == FLOAT8:
        device.check_float8(operands.a.device, is_mixed=False)
    out = operands.new_out()
    tile = tile_for(operands, out)
    if isinstance(tile, LibraryTile):
        return library_matmul(operands)
    run(operands, out, tile)
    return out


def run(operands: Operands, out: Tensor, tile: SkinnyTile) -> None:
    """Launch the kernel with a tile, shared among all of the GPU."""
    from tokenwatt_kernels.matmul.skinny.kernel import launch

    gpu = operands.a.device
    programs = tile.programs_per_multiprocessor * device.multiprocessors(gpu)
    launch(operands, out, tile, programs, promotes=operands.promotes(device.capability(gpu)))
