"""Grouped matmuls as `tune` measures them: a small sibling of a problem for the gate, and launches with any tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels.moe.grouped.inputs import make_inputs
from tokenwatt_kernels.moe.grouped.kernel import combine_kernel, grouped_kernel, launch
from tokenwatt_kernels.moe.grouped.problems import GroupedProblem
from tokenwatt_kernels.moe.grouped.tiles import GroupedTile

KERNELS = (grouped_kernel, combine_kernel)
MOST_ROWS, MOST_COLUMNS, MOST_TERMS, MOST_EXPERTS = 100, 784, 1152, 8
"""Rows are those of an expert on average. Columns are a multiple of 16, so that the kernel is compiled as for a real
problem, but not of any tile."""
COMBINED_TERMS, COMBINED_SLOTS = 640, 2
"""Of a sum over slots, whose number does not change the kernel of the products."""


def sibling(problem: GroupedProblem) -> GroupedProblem:
    """The same kind of product for fewer experts, some of them without rows, small enough for the gate."""
    experts = min(len(problem.rows), MOST_EXPERTS)
    average = -(-sum(problem.rows) // min(len(problem.rows), sum(problem.rows)))
    top_k = min(problem.top_k, COMBINED_SLOTS) if problem.combines else problem.top_k
    left = min(average, MOST_ROWS) * experts // top_k * top_k
    rows = [0] * experts
    for expert in range(experts):
        if expert % 4 != 1:
            rows[expert] = -(-left // 3)
            left -= rows[expert]
    rows[0] += left
    return replace(
        problem,
        name="sibling",
        rows=tuple(rows),
        n=min(problem.n, MOST_COLUMNS),
        k=min(problem.k, COMBINED_TERMS if problem.combines else MOST_TERMS),
        top_k=top_k,
    )


def launcher(problem: GroupedProblem, dtype_name: str, device: torch.device) -> Callable[[GroupedTile], None]:
    """Runs the kernels on one set of random tensors, with any tile."""
    inputs = make_inputs(problem, dtype_name, device, poisoned=False)
    product = inputs.product
    out = torch.empty(product.out_shape, dtype=product.out_dtype, device=device)
    multiprocessors = device_facts.multiprocessors(device)
    promotes = product.promotes(device_facts.capability(device))

    def run(tile: GroupedTile) -> None:
        launched = tile if product.allow_descriptors else tile.with_pointers()
        programs = tile.programs_per_multiprocessor * multiprocessors
        launch(product, inputs.residual, out, launched, programs, promotes=promotes)

    return run
