"""Decode attention as `tune` measures it: a small sibling of a problem for the gate, and launches with any tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels.attention.decode.kernel import combine_kernel, launch, split_kernel
from tokenwatt_kernels.attention.decode.tiles import DecodeTile
from tokenwatt_kernels.attention.inputs import make_inputs
from tokenwatt_kernels.attention.problem import AttentionProblem

KERNELS = (split_kernel, combine_kernel)
CONTEXTS = (1328, 0, *(1 + 37 * index % 500 for index in range(30)))
"""A long one that is shared among programs, an empty one, and many short ones of which a program gets several."""


def sibling(problem: AttentionProblem) -> AttentionProblem:
    """The same heads and options, so that the kernel is compiled alike, with contexts that cut tiles off everywhere."""
    return replace(
        problem, name="sibling", queries=(problem.queries[0],) * len(CONTEXTS), contexts=CONTEXTS, spare_pages=3
    )


def launcher(problem: AttentionProblem, dtype_name: str, device: torch.device) -> Callable[[DecodeTile], None]:
    """Runs the kernels on one set of random tensors, with any tile."""
    inputs = make_inputs(problem, dtype_name, device, poisoned=False)
    out = torch.empty(*inputs.q.shape[:2], problem.values, dtype=inputs.q.dtype, device=device)
    queries, multiprocessors = problem.queries[0], device_facts.multiprocessors(device)

    def run(tile: DecodeTile) -> None:
        programs = tile.programs_per_multiprocessor * multiprocessors
        launch(inputs.q, queries, inputs.keys, inputs.options, out, None, tile, programs)

    return run
