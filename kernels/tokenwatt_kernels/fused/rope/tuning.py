"""Rotary embedding as `tune` measures it: a small sibling of a problem for the gate, and launches with any tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from tokenwatt_kernels.fused.rope.inputs import make_inputs
from tokenwatt_kernels.fused.rope.kernel import launch, rope_kernel
from tokenwatt_kernels.fused.rope.problems import RopeProblem
from tokenwatt_kernels.fused.rope.tiles import RopeTile

KERNELS = (rope_kernel,)
MOST_TOKENS = 37


def sibling(problem: RopeProblem) -> RopeProblem:
    """The same heads and options with few tokens."""
    return replace(problem, name="sibling", tokens=min(problem.tokens, MOST_TOKENS))


def launcher(problem: RopeProblem, dtype_name: str, device: torch.device) -> Callable[[RopeTile], None]:
    """Runs the kernel on one set of random tensors, with any tile."""
    inputs = make_inputs(problem, dtype_name, device, poisoned=False)
    append = inputs.append_to_empty(getattr(torch, problem.kv_dtype or dtype_name))
    out = torch.empty(inputs.q.shape, dtype=inputs.q.dtype, device=device)
    k_out, v_out = (torch.empty_like(heads) if problem.is_packed else None for heads in (inputs.k, inputs.v))
    return lambda tile: launch(inputs.q, inputs.k, inputs.v, inputs.rotation, append, out, k_out, v_out, tile)
