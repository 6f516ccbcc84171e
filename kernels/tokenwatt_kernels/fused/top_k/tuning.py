"""The choice of tokens as `tune` measures it: a small sibling of a problem for the gate, and launches with any tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from tokenwatt_kernels.fused.top_k.kernel import launch, part_kernel, select_kernel
from tokenwatt_kernels.fused.top_k.problems import TopKProblem
from tokenwatt_kernels.fused.top_k.tiles import TopKTile

KERNELS = (part_kernel, select_kernel)
MOST_ROWS, MOST_VOCABULARY = 3, 50_257


def sibling(problem: TopKProblem) -> TopKProblem:
    """The same choice from fewer rows and an odd vocabulary."""
    return replace(
        problem,
        name="sibling",
        rows=min(problem.rows, MOST_ROWS),
        vocabulary=min(problem.vocabulary, MOST_VOCABULARY),
    )


def launcher(problem: TopKProblem, dtype_name: str, device: torch.device) -> Callable[[TopKTile], None]:
    """Runs the kernels on one set of random tensors, with any tile."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (problem.rows, problem.vocabulary)
    logits = torch.randn(shape, generator=generator, device=device).to(getattr(torch, dtype_name))
    temperature = torch.ones(problem.rows, device=device) if problem.has_temperature else None
    values = torch.empty(problem.rows, problem.k, device=device)
    indices = torch.empty(problem.rows, problem.k, dtype=torch.int32, device=device)
    log_sum = torch.empty(problem.rows, device=device)
    return lambda tile: launch(logits, temperature, problem.softcap, values, indices, log_sum, tile)
