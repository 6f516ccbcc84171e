"""Matmuls with packed weights made concrete for the gate."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokenwatt_kernels.matmul import split_cases as shared
from tokenwatt_kernels.matmul.packed import kernel
from tokenwatt_kernels.matmul.packed.inputs import guarded_operands
from tokenwatt_kernels.matmul.packed.problems import PackedProblem
from tokenwatt_kernels.matmul.packed.reference import packed_reference
from tokenwatt_kernels.matmul.packed.tiles import FAMILY
from tokenwatt_kernels.matmul.split_cases import Launch
from tokenwatt_kernels.matmul.split_tile import SplitTile
from tokenwatt_kernels.testing import Case


def cases(
    problem: PackedProblem,
    dtype_name: str,
    device: torch.device,
    seed: int = 0,
    launch: Launch = kernel.launch,
    tiles: Sequence[SplitTile] | None = None,
) -> list[Case]:
    """With those of `tiles` that take the problem; None: the tile of a launch on a GPU, small ones interpreted."""
    operands = guarded_operands(problem, dtype_name, device, seed)
    return shared.cases(FAMILY, problem, dtype_name, operands, packed_reference, launch, tiles)


def small_cases(
    problem: PackedProblem, dtype_name: str, device: torch.device, launch: Launch = kernel.launch, seed: int = 0
) -> list[Case]:
    """With the interpreter's tiles, on any device."""
    operands = guarded_operands(problem, dtype_name, device, seed)
    return shared.small_cases(FAMILY, problem, dtype_name, operands, packed_reference, launch)
