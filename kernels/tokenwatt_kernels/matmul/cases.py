"""Matmul problems made concrete for the gate: what the families of one weight share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.library import library_matmul
from tokenwatt_kernels.matmul.library_tile import LibraryTile
from tokenwatt_kernels.matmul.operands import Operands
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.matmul.reference import matmul_reference
from tokenwatt_kernels.testing import Case

INTERPRETED_CAPABILITY = 90
"""The GPU that the interpreter stands for: it has everything that the kernels can use."""
INTERPRETED_MULTIPROCESSORS = 3


def capability_of(device: torch.device) -> int:
    """That of a GPU, or of the one that the interpreter stands for."""
    return INTERPRETED_CAPABILITY if device.type == "cpu" else device_facts.capability(device)


def programs_of(tile: Any, device: torch.device) -> int:
    """Programs of a launch with a tile on all of a GPU; few in the interpreter."""
    multiprocessors = INTERPRETED_MULTIPROCESSORS if device.type == "cpu" else device_facts.multiprocessors(device)
    return 1 if isinstance(tile, LibraryTile) else multiprocessors * tile.programs_per_multiprocessor


def matmul_cases(
    family: str,
    problem: MatmulProblem,
    dtype_name: str,
    operands: Operands,
    launch: Callable[..., None],
    tiles: Iterable[tuple[Any, int]],
) -> list[Case]:
    """One for each tile and its number of programs."""
    return [
        Case(
            name=f"{family} {problem.name} {tile.name} programs={programs}",
            dtype_name=dtype_name,
            device=operands.a.device,
            out_shape=(problem.m, problem.out_columns),
            terms=problem.terms,
            launch=partial(_launch_into, launch, operands, tile, programs),
            reference=partial(matmul_reference, operands),
            held_to=DTYPES[dtype_name].out_name,
        )
        for tile, programs in tiles
    ]


def _launch_into(launch: Callable[..., None], operands: Operands, tile: Any, programs: int, out: Tensor) -> None:
    if isinstance(tile, LibraryTile):
        out.copy_(library_matmul(operands))
    else:
        launch(operands, out, tile, programs, promotes=operands.promotes(capability_of(out.device)))
