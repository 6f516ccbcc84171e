"""Prefill attention as `tune` measures it: a small sibling of a problem for the gate, and launches with any tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels.attention.inputs import make_inputs
from tokenwatt_kernels.attention.prefill import variants
from tokenwatt_kernels.attention.prefill.kernel import prefill_kernel
from tokenwatt_kernels.attention.prefill.tiles import Tile, default
from tokenwatt_kernels.attention.prefill.warp_specialised import warp_specialised_kernel
from tokenwatt_kernels.attention.problem import AttentionProblem
from tokenwatt_kernels.dtypes import DTYPES

KERNELS = (prefill_kernel, warp_specialised_kernel)
LENGTHS = (463, 1, 129)


def sibling(problem: AttentionProblem) -> AttentionProblem:
    """The same heads and options, so that the kernel is compiled alike, with lengths that cut tiles off everywhere."""
    is_chunk = problem.queries != problem.contexts
    queries = tuple(-(-length // 4) for length in LENGTHS) if is_chunk else LENGTHS
    return replace(problem, name="sibling", queries=queries, contexts=LENGTHS)


def launcher(problem: AttentionProblem, dtype_name: str, device: torch.device) -> Callable[[Tile], None]:
    """Runs one set of random tensors with any tile, or with the default where the tile's kernel does not take them."""
    inputs = make_inputs(problem, dtype_name, device, poisoned=False)
    q, keys, options = inputs.q, inputs.keys, inputs.options
    out_dtype = getattr(torch, DTYPES[dtype_name].out_name)
    out = torch.empty(*q.shape[:2], problem.values, dtype=out_dtype, device=device)

    def run(tile: Tile) -> None:
        if not variants.takes(tile, q, keys, options):
            tile = default(variants.key_for(q, keys), device_facts.capability(device))
        variants.launch(q, keys, inputs.query_starts, max(problem.queries), options, out, None, tile)

    return run
