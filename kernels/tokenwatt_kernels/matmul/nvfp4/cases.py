"""Matmuls of NVFP4 numbers made concrete for the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels.matmul.cases import INTERPRETED_CAPABILITY, INTERPRETED_MULTIPROCESSORS
from tokenwatt_kernels.matmul.nvfp4 import kernel
from tokenwatt_kernels.matmul.nvfp4.call import key_for, tile_for
from tokenwatt_kernels.matmul.nvfp4.inputs import guarded_operands
from tokenwatt_kernels.matmul.nvfp4.operands import Nvfp4Operands
from tokenwatt_kernels.matmul.nvfp4.problems import Nvfp4Problem
from tokenwatt_kernels.matmul.nvfp4.reference import nvfp4_reference
from tokenwatt_kernels.matmul.nvfp4.tiles import FAMILY, INTERPRETER_TILES, is_valid_on
from tokenwatt_kernels.matmul.split_tile import SplitTile
from tokenwatt_kernels.testing import Case

Launch = Callable[..., None]


def cases(
    problem: Nvfp4Problem,
    dtype_name: str,
    device: torch.device,
    seed: int = 0,
    launch: Launch = kernel.launch,
    tiles: Sequence[SplitTile] | None = None,
) -> list[Case]:
    """With those of `tiles` that take the problem; None: the tile of a launch on a GPU, small ones interpreted."""
    if tiles is None and device.type == "cpu":
        return small_cases(problem, dtype_name, device, launch, seed)
    operands = guarded_operands(problem, device, seed)
    many = INTERPRETED_MULTIPROCESSORS if device.type == "cpu" else device_facts.multiprocessors(device)
    chosen = (tile_for(operands),) if tiles is None else tiles
    return _cases(
        problem, dtype_name, operands, launch, [(tile, tile.programs_per_multiprocessor * many) for tile in chosen]
    )


def small_cases(
    problem: Nvfp4Problem, dtype_name: str, device: torch.device, launch: Launch = kernel.launch, seed: int = 0
) -> list[Case]:
    """With the interpreter's tiles, on any device."""
    return _cases(problem, dtype_name, guarded_operands(problem, device, seed), launch, INTERPRETER_TILES)


def _cases(
    problem: Nvfp4Problem,
    dtype_name: str,
    operands: Nvfp4Operands,
    launch: Launch,
    tiles: Iterable[tuple[SplitTile, int]],
) -> list[Case]:
    """One for each tile that takes the operands, and its number of programs."""
    device = operands.a.device
    capability = INTERPRETED_CAPABILITY if device.type == "cpu" else device_facts.capability(device)
    return [
        Case(
            name=f"{FAMILY} {problem.name} {tile.name} programs={programs}",
            dtype_name=dtype_name,
            device=device,
            out_shape=(problem.m, problem.out_columns),
            terms=problem.terms,
            launch=partial(_launch_into, launch, operands, tile, programs),
            reference=partial(nvfp4_reference, operands),
        )
        for tile, programs in tiles
        if is_valid_on(tile, key_for(operands), capability)
    ]


def _launch_into(launch: Launch, operands: Nvfp4Operands, tile: SplitTile, programs: int, out: Tensor) -> None:
    launch(operands, out, tile, programs)
