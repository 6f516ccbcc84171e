"""Matmuls of 4-bit numbers made concrete for the gate: the kernels differ, the way to a case does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels.families import part
from tokenwatt_kernels.matmul.cases import INTERPRETED_CAPABILITY, INTERPRETED_MULTIPROCESSORS
from tokenwatt_kernels.matmul.split_tile import SplitTile
from tokenwatt_kernels.testing import Case

Launch = Callable[..., None]
Reference = Callable[[Any, torch.dtype], Tensor]


def cases(
    family: str,
    problem: Any,
    dtype_name: str,
    operands: Any,
    reference: Reference,
    launch: Launch,
    tiles: Sequence[SplitTile] | None = None,
) -> list[Case]:
    """With those of `tiles` that take the operands; None: the tile of a launch on a GPU, small ones interpreted."""
    device = operands.a.device
    if tiles is None and device.type == "cpu":
        return small_cases(family, problem, dtype_name, operands, reference, launch)
    many = INTERPRETED_MULTIPROCESSORS if device.type == "cpu" else device_facts.multiprocessors(device)
    chosen = (part(family, "call").tile_for(operands),) if tiles is None else tiles
    launched = [(tile, tile.programs_per_multiprocessor * many) for tile in chosen]
    return _cases(family, problem, dtype_name, operands, reference, launch, launched)


def small_cases(
    family: str, problem: Any, dtype_name: str, operands: Any, reference: Reference, launch: Launch
) -> list[Case]:
    """With the interpreter's tiles, on any device."""
    tiles = part(family, "tiles").INTERPRETER_TILES
    return _cases(family, problem, dtype_name, operands, reference, launch, tiles)


def _cases(
    family: str,
    problem: Any,
    dtype_name: str,
    operands: Any,
    reference: Reference,
    launch: Launch,
    tiles: Sequence[tuple[SplitTile, int]],
) -> list[Case]:
    """One for each tile that takes the operands, and its number of programs."""
    device = operands.a.device
    capability = INTERPRETED_CAPABILITY if device.type == "cpu" else device_facts.capability(device)
    key = part(family, "call").key_for(operands)
    return [
        Case(
            name=f"{family} {problem.name} {tile.name} programs={programs}",
            dtype_name=dtype_name,
            device=device,
            out_shape=(problem.m, problem.out_columns),
            terms=problem.terms,
            launch=partial(_launch_into, launch, operands, tile, programs),
            reference=partial(reference, operands),
        )
        for tile, programs in tiles
        if part(family, "tiles").is_valid_on(tile, key, capability)
    ]


def _launch_into(launch: Launch, operands: Any, tile: SplitTile, programs: int, out: Tensor) -> None:
    launch(operands, out, tile, programs)
