"""RMS normalisation as `tune` measures it: a small sibling of a problem for the gate, and launches with any tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from tokenwatt_kernels.arguments import FLOAT8
from tokenwatt_kernels.fused.norm.cases import EPS
from tokenwatt_kernels.fused.norm.kernel import launch, norm_kernel
from tokenwatt_kernels.fused.norm.problems import NormProblem
from tokenwatt_kernels.fused.norm.tiles import NormTile

KERNELS = (norm_kernel,)
MOST_ROWS = 37
"""Not a multiple of any tile."""


def sibling(problem: NormProblem) -> NormProblem:
    """The same kind of norm with few rows."""
    return replace(problem, name="sibling", rows=min(problem.rows, MOST_ROWS))


def launcher(problem: NormProblem, dtype_name: str, device: torch.device) -> Callable[[NormTile], None]:
    """Runs the kernel on one set of random tensors, with any tile. The residual grows until its type keeps it."""
    dtype = getattr(torch, dtype_name)
    generator = torch.Generator(device).manual_seed(0)
    x, residual = (torch.randn(problem.shape, generator=generator, device=device, dtype=dtype) for _ in range(2))
    weight = torch.randn(problem.width, generator=generator, device=device, dtype=dtype)
    is_quantised = problem.scales != "none"
    out = torch.empty(problem.shape, dtype=FLOAT8 if is_quantised else dtype, device=device)
    scale = torch.ones(problem.rows, problem.scales_per_row, device=device) if is_quantised else None

    def run(tile: NormTile) -> None:
        launch(
            x, weight, residual if problem.has_residual else None, out, scale, tile,
            eps=EPS, unit_offset=problem.unit_offset, scales=problem.scales,
        )  # fmt: skip

    return run
