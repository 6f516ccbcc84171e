"""Routing as `tune` measures it: a small sibling of a problem for the gate, and launches with any tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from tokenwatt_kernels.moe.route.cases import make_inputs
from tokenwatt_kernels.moe.route.kernel import choose_kernel, launch, place_kernel, scan_kernel
from tokenwatt_kernels.moe.route.problems import RouteProblem
from tokenwatt_kernels.moe.route.tiles import RouteTile

KERNELS = (choose_kernel, scan_kernel, place_kernel)
MOST_TOKENS = 1203


def sibling(problem: RouteProblem) -> RouteProblem:
    """The same choice among the same experts for fewer tokens."""
    return replace(problem, name="sibling", tokens=min(problem.tokens, MOST_TOKENS))


def launcher(problem: RouteProblem, dtype_name: str, device: torch.device) -> Callable[[RouteTile], None]:
    """Runs the kernels on one set of random logits, with any tile."""
    inputs = make_inputs(problem, dtype_name, device)
    chosen, integers = (problem.tokens, problem.choice.top_k), {"dtype": torch.int32, "device": device}
    weights, experts = torch.empty(chosen, device=device), torch.empty(chosen, **integers)
    order, inverse = torch.empty(problem.rows, **integers), torch.empty(problem.rows, **integers)
    offsets = torch.empty(problem.experts + 1, **integers)

    def run(tile: RouteTile) -> None:
        launch(inputs.logits, inputs.correction_bias, problem.choice, weights, experts, order, inverse, offsets, tile)

    return run
