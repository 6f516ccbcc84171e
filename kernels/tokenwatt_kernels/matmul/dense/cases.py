"""Dense problems made concrete: poisoned inputs, the kernel to launch, the reference to hold it to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tokenwatt_kernels.matmul.cases import capability_of, matmul_cases, programs_of
from tokenwatt_kernels.matmul.dense import kernel
from tokenwatt_kernels.matmul.dense.call import key_for, tile_for
from tokenwatt_kernels.matmul.dense.tiles import FAMILY, INTERPRETER_TILES, AnyTile, is_valid_on
from tokenwatt_kernels.matmul.inputs import guarded_operands
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.testing import Case


def cases(
    problem: MatmulProblem,
    dtype_name: str,
    device: torch.device,
    seed: int = 0,
    launch: Callable[..., None] = kernel.launch,
    tiles: Sequence[AnyTile] | None = None,
) -> list[Case]:
    """With those of `tiles` that take the problem; None: the tile of a launch on a GPU, small ones interpreted."""
    operands = guarded_operands(problem, dtype_name, device, seed)
    if tiles is None and device.type == "cpu":
        return small_cases(problem, dtype_name, device, launch, seed)
    out = operands.new_out()
    chosen = (tile_for(operands, out),) if tiles is None else tiles
    key, capability = key_for(operands, out), capability_of(device)
    launched = [(tile, programs_of(tile, device)) for tile in chosen if is_valid_on(tile, key, capability)]
    return matmul_cases(FAMILY, problem, dtype_name, operands, launch, launched)


def small_cases(
    problem: MatmulProblem, dtype_name: str, device: torch.device, launch: Callable[..., None], seed: int = 0
) -> list[Case]:
    """With the interpreter's tiles, on any device."""
    operands = guarded_operands(problem, dtype_name, device, seed)
    key, capability = key_for(operands, operands.new_out()), capability_of(device)
    launched = [(tile, programs) for tile, programs in INTERPRETER_TILES if is_valid_on(tile, key, capability)]
    return matmul_cases(FAMILY, problem, dtype_name, operands, launch, launched)
