"""Norms made concrete: poisoned inputs, the kernel to launch, the reference to hold it to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tokenwatt_kernels.arguments import FLOAT8
from tokenwatt_kernels.fused.norm import kernel
from tokenwatt_kernels.fused.norm.call import tile_for
from tokenwatt_kernels.fused.norm.problems import NormProblem
from tokenwatt_kernels.fused.norm.reference import dequantised, normed_reference, scales_reference
from tokenwatt_kernels.fused.norm.tiles import INTERPRETER_TILES, NormTile
from tokenwatt_kernels.number_formats.float8 import BLOCK as SCALE_WIDTH
from tokenwatt_kernels.number_formats.float8 import LARGEST
from tokenwatt_kernels.testing import Case, guarded_empty, guarded_randn

EPS = 1e-5
TENSOR_SCALE = 0.0125
"""The largest float8 then stands for 5.6: what is larger must become that."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Rows, one of them zero, and what they are normed with."""

    problem: NormProblem
    x: Tensor
    residual: Tensor
    weight: Tensor

    def summed(self) -> Tensor:
        """What is normed."""
        return (self.x.float() + self.residual.float()).to(self.x.dtype) if self.problem.has_residual else self.x

    def normed(self, dtype: torch.dtype) -> Tensor:
        """The naive answer, computed in `dtype`."""
        rows, weight = self.summed().to(dtype), self.weight.to(dtype)
        if not self.problem.has_norm:
            return rows
        normed = normed_reference(rows, weight, eps=EPS, unit_offset=self.problem.unit_offset)
        if self.problem.scales == "tensor":
            normed = normed.clamp(-LARGEST * TENSOR_SCALE, LARGEST * TENSOR_SCALE)
        return normed.to(dtype)

    def scales(self, dtype: torch.dtype) -> Tensor:
        """The naive scales [T, n], computed in `dtype`."""
        width = SCALE_WIDTH if self.problem.scales == "block" else self.problem.width
        return scales_reference(self.normed(dtype), width)


def make_inputs(problem: NormProblem, dtype_name: str, device: torch.device, seed: int = 0) -> Inputs:
    """Standard normal rows and weight inside NaN. The last of several rows is zero."""
    dtype = getattr(torch, dtype_name)
    generator = torch.Generator().manual_seed(seed)
    x, residual = (guarded_randn(problem.shape, dtype, device, generator) for _ in range(2))
    if problem.rows > 1:
        x[-1] = residual[-1] = 0.0
    return Inputs(problem, x, residual, guarded_randn((problem.width,), dtype, device, generator))


def cases(
    problem: NormProblem,
    dtype_name: str,
    device: torch.device,
    seed: int = 0,
    launch: Callable[..., None] = kernel.launch,
    tiles: Sequence[NormTile] | None = None,
) -> Iterator[Case]:
    """With `tiles`. None: the tile of a launch on a GPU, small ones in the interpreter."""
    inputs = make_inputs(problem, dtype_name, device, seed)
    if tiles is None:
        tiles = INTERPRETER_TILES if device.type == "cpu" else (tile_for(inputs.x),)
    for tile in tiles:
        yield from _cases(inputs, dtype_name, launch, tile)


def small_cases(
    problem: NormProblem, dtype_name: str, device: torch.device, launch: Callable[..., None]
) -> Iterator[Case]:
    """With the interpreter's tiles, on any device."""
    return cases(problem, dtype_name, device, launch=launch, tiles=INTERPRETER_TILES)


def _cases(inputs: Inputs, dtype_name: str, launch: Callable[..., None], tile: NormTile) -> Iterator[Case]:
    """One case for each tensor that a launch writes."""
    problem, device = inputs.problem, inputs.x.device
    run = partial(_run, launch, inputs, tile)
    case = partial(Case, dtype_name=dtype_name, device=device, terms=problem.terms)
    name = f"fused.norm {problem.name} {tile.name}"
    scale_shape = (problem.rows, problem.scales_per_row)
    if problem.scales == "none":
        yield case(name=name, out_shape=problem.shape, launch=run, reference=inputs.normed)
    else:
        scale = torch.full(scale_shape if problem.scales != "tensor" else (1, 1), TENSOR_SCALE, device=device)
        yield case(
            name=name,
            out_shape=problem.shape,
            launch=lambda out: run(out, scale=scale),
            reference=inputs.normed,
            held_to="float8_e4m3fn",
            out_dtype=FLOAT8,
            read=lambda stored: dequantised(stored, scale),
        )
    if problem.scales in ("token", "block"):
        yield case(
            name=f"{name} scales",
            out_shape=scale_shape,
            launch=lambda scale: run(torch.empty(problem.shape, dtype=FLOAT8, device=device), scale=scale),
            reference=inputs.scales,
            held_to="float32",
        )
    if problem.has_residual:
        yield case(
            name=f"{name} residual",
            out_shape=problem.shape,
            launch=lambda residual: _run_in_place(run, inputs, residual),
            reference=lambda dtype: inputs.summed().to(dtype),
        )


def _run(
    launch: Callable[..., None],
    inputs: Inputs,
    tile: NormTile,
    out: Tensor,
    *,
    scale: Tensor | None = None,
    residual: Tensor | None = None,
) -> None:
    problem = inputs.problem
    if residual is None and problem.has_residual:
        residual = guarded_empty(problem.shape, inputs.x.dtype, out.device).view.copy_(inputs.residual)
    launch(
        inputs.x, inputs.weight if problem.has_norm else None, residual, out, scale, tile,
        eps=EPS, unit_offset=problem.unit_offset, scales=problem.scales,
    )  # fmt: skip


def _run_in_place(run: Callable[..., None], inputs: Inputs, residual: Tensor) -> None:
    problem, device = inputs.problem, residual.device
    is_quantised = problem.scales != "none"
    out = torch.empty(problem.shape, dtype=FLOAT8 if is_quantised else residual.dtype, device=device)
    scale = torch.ones(problem.rows, problem.scales_per_row, device=device) if is_quantised else None
    residual.copy_(inputs.residual)
    run(out, scale=scale, residual=residual)
