"""Grouped matmuls made concrete for the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels.matmul.cases import capability_of
from tokenwatt_kernels.moe.grouped import kernel
from tokenwatt_kernels.moe.grouped.call import tile_for
from tokenwatt_kernels.moe.grouped.inputs import Inputs, make_inputs
from tokenwatt_kernels.moe.grouped.problems import FLOAT8, GroupedProblem
from tokenwatt_kernels.moe.grouped.reference import reference_answer
from tokenwatt_kernels.moe.grouped.tiles import (
    INTERPRETER_BLOCK_TILES,
    INTERPRETER_PACKED_TILES,
    INTERPRETER_TILES,
    GroupedTile,
)
from tokenwatt_kernels.targets import target_for
from tokenwatt_kernels.testing import Case

INTERPRETER_MULTIPROCESSORS = 3


def cases(
    problem: GroupedProblem,
    dtype_name: str,
    device: torch.device,
    seed: int = 0,
    launch: Callable[..., None] = kernel.launch,
    tiles: Sequence[GroupedTile] | None = None,
) -> Iterator[Case]:
    """With `tiles` and their programs. None: the tile of a launch on a GPU, small ones in the interpreter."""
    inputs = make_inputs(problem, dtype_name, device, seed)
    if tiles is None and device.type == "cpu":
        launched = _interpreter_tiles(inputs)
    else:
        multiprocessors = INTERPRETER_MULTIPROCESSORS
        if device.type == "cuda":
            multiprocessors = device_facts.multiprocessors(device)
        chosen = (tile_for(inputs.product),) if tiles is None else tiles
        launched = [(tile, tile.programs_per_multiprocessor * multiprocessors) for tile in chosen]
    yield from _cases(problem, dtype_name, inputs, launch, launched)


def small_cases(
    problem: GroupedProblem, dtype_name: str, device: torch.device, launch: Callable[..., None]
) -> Iterator[Case]:
    """With the interpreter's tiles and programs, on any device."""
    inputs = make_inputs(problem, dtype_name, device)
    tiles = _interpreter_tiles(inputs)
    if device.type == "cuda" and not target_for(device_facts.capability(device)).copies_tiles:
        tiles = [(tile, programs) for tile, programs in tiles if not tile.descriptors]
    yield from _cases(problem, dtype_name, inputs, launch, tiles)


def _interpreter_tiles(inputs: Inputs) -> list[tuple[GroupedTile, int]]:
    """A weight that the hardware cannot copy meets the same tiles with pointers."""
    if inputs.product.number_format != "none":
        return list(INTERPRETER_PACKED_TILES)
    return list(INTERPRETER_BLOCK_TILES if inputs.product.scales == "block" else INTERPRETER_TILES)


def _cases(
    problem: GroupedProblem,
    dtype_name: str,
    inputs: Inputs,
    launch: Callable[..., None],
    tiles: Sequence[tuple[GroupedTile, int]],
) -> Iterator[Case]:
    product = inputs.product
    promotes = product.promotes(capability_of(product.a.device))
    for tile, programs in tiles:
        launched = tile if product.allow_descriptors else tile.with_pointers()
        yield Case(
            name=f"moe.grouped {problem.name} {launched.name} programs={programs}",
            dtype_name=dtype_name,
            device=product.a.device,
            out_shape=product.out_shape,
            terms=problem.terms,
            launch=partial(_launch_into, launch, inputs, launched, programs, promotes),
            reference=partial(reference_answer, product, inputs.residual),
            # Products of float8 numbers are exact in fp32: the answer is as good as one of bfloat16 numbers.
            held_to="bfloat16" if dtype_name == FLOAT8 else "",
        )


def _launch_into(
    launch: Callable[..., None], inputs: Inputs, tile: GroupedTile, programs: int, promotes: bool, out: Tensor
) -> None:
    launch(inputs.product, inputs.residual, out, tile, programs, promotes=promotes)
