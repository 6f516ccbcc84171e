"""Matmul problems made concrete for the gate: poisoned inputs, the kernel to launch, the reference to hold it to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.families import part
from tokenwatt_kernels.matmul.dispatch import key_for, tile_for
from tokenwatt_kernels.matmul.inputs import guarded_operands
from tokenwatt_kernels.matmul.library import library_matmul
from tokenwatt_kernels.matmul.library_tile import LibraryTile
from tokenwatt_kernels.matmul.operands import Operands
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.matmul.reference import matmul_reference
from tokenwatt_kernels.testing import Case

INTERPRETED_CAPABILITY = 90
"""The GPU that the interpreter stands for: it has everything that the kernels can use."""
INTERPRETED_MULTIPROCESSORS = 3

Launch = Callable[..., None]


def cases(
    family: str,
    problem: MatmulProblem,
    dtype_name: str,
    device: torch.device,
    seed: int = 0,
    launch: Launch | None = None,
    tiles: Sequence[Any] | None = None,
) -> list[Case]:
    """With those of `tiles` that take the problem; None: the tile of a launch on a GPU, small ones interpreted."""
    if tiles is None and device.type == "cpu":
        return small_cases(family, problem, dtype_name, device, launch, seed)
    operands = guarded_operands(problem, dtype_name, device, seed)
    chosen = (tile_for(family, operands, operands.new_out()),) if tiles is None else tiles
    return _cases(family, problem, dtype_name, operands, launch, [(tile, _programs(tile, device)) for tile in chosen])


def small_cases(
    family: str,
    problem: MatmulProblem,
    dtype_name: str,
    device: torch.device,
    launch: Launch | None = None,
    seed: int = 0,
) -> list[Case]:
    """With the interpreter's tiles, on any device."""
    operands = guarded_operands(problem, dtype_name, device, seed)
    return _cases(family, problem, dtype_name, operands, launch, part(family, "tiles").INTERPRETER_TILES)


def _cases(
    family: str,
    problem: MatmulProblem,
    dtype_name: str,
    operands: Operands,
    launch: Launch | None,
    tiles: Iterable[tuple[Any, int]],
) -> list[Case]:
    """One for each tile that takes the operands, and its number of programs."""
    key, capability = key_for(family, operands, operands.new_out()), capability_of(operands.a.device)
    return [
        Case(
            name=f"{family} {problem.name} {tile.name} programs={programs}",
            dtype_name=dtype_name,
            device=operands.a.device,
            out_shape=(problem.m, problem.out_columns),
            terms=problem.terms,
            launch=partial(_launch_into, launch or part(family, "kernel").launch, operands, tile, programs, capability),
            reference=partial(matmul_reference, operands),
            held_to=DTYPES[dtype_name].out_name,
        )
        for tile, programs in tiles
        if part(family, "tiles").is_valid_on(tile, key, capability)
    ]


def _launch_into(launch: Launch, operands: Operands, tile: Any, programs: int, capability: int, out: Tensor) -> None:
    if isinstance(tile, LibraryTile):
        out.copy_(library_matmul(operands))
    else:
        launch(operands, out, tile, programs, promotes=operands.promotes(capability))


def capability_of(device: torch.device) -> int:
    """That of a GPU, or of the one that the interpreter stands for."""
    return INTERPRETED_CAPABILITY if device.type == "cpu" else device_facts.capability(device)


def _programs(tile: Any, device: torch.device) -> int:
    """Programs of a launch with a tile on all of a GPU; few in the interpreter."""
    multiprocessors = INTERPRETED_MULTIPROCESSORS if device.type == "cpu" else device_facts.multiprocessors(device)
    return 1 if isinstance(tile, LibraryTile) else multiprocessors * tile.programs_per_multiprocessor
