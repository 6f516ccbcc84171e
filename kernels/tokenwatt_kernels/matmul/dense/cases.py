"""Matmul problems made concrete: poisoned inputs, the kernel to launch, the reference to hold it to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from tokenwatt_kernels.matmul.dense import kernel
from tokenwatt_kernels.matmul.dense.call import tile_for
from tokenwatt_kernels.matmul.dense.problems import MatmulProblem
from tokenwatt_kernels.matmul.dense.reference import matmul_reference
from tokenwatt_kernels.matmul.dense.tiles import INTERPRETER_TILES, MatmulTile
from tokenwatt_kernels.testing import Case, guarded_randn


def cases(
    problem: MatmulProblem,
    dtype_name: str,
    device: torch.device,
    seed: int = 0,
    launch: Callable[..., None] = kernel.launch,
    tiles: Sequence[MatmulTile] | None = None,
) -> list[Case]:
    """With `tiles`. None: the tile of a launch on a GPU, small ones in the interpreter."""
    dtype = getattr(torch, dtype_name)
    generator = torch.Generator().manual_seed(seed)
    a = guarded_randn((problem.m, problem.k), dtype, device, generator)
    weight = guarded_randn((problem.n, problem.k), dtype, device, generator)

    def reference(in_dtype: torch.dtype) -> Tensor:
        return matmul_reference(a.to(in_dtype), weight.to(in_dtype))

    return [
        Case(
            name=f"matmul.dense {problem.name} {tile.block_m}x{tile.block_n}x{tile.block_k}",
            dtype_name=dtype_name,
            device=device,
            out_shape=(problem.m, problem.n),
            terms=problem.terms,
            launch=partial(_launch_into, launch, a, weight, tile),
            reference=reference,
        )
        for tile in (_launched(a) if tiles is None else tiles)
    ]


def small_cases(
    problem: MatmulProblem, dtype_name: str, device: torch.device, launch: Callable[..., None]
) -> list[Case]:
    """With the interpreter's tiles, on any device."""
    return cases(problem, dtype_name, device, launch=launch, tiles=INTERPRETER_TILES)


def _launch_into(launch: Callable[..., None], a: Tensor, weight: Tensor, tile: MatmulTile, out: Tensor) -> None:
    launch(a, weight, out, tile)


def _launched(a: Tensor) -> Sequence[MatmulTile]:
    return INTERPRETER_TILES if a.device.type == "cpu" else (tile_for(a),)
