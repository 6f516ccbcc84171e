"""Prefill attention against PyTorch's attention implementations."""

from __future__ import annotations

import torch

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels import tables
from tokenwatt_kernels.attention import baselines
from tokenwatt_kernels.attention.inputs import Inputs, make_inputs
from tokenwatt_kernels.attention.prefill import variants
from tokenwatt_kernels.attention.prefill.call import attend
from tokenwatt_kernels.attention.prefill.tiles import FAMILY
from tokenwatt_kernels.attention.problem import AttentionProblem
from tokenwatt_kernels.attention.work import work
from tokenwatt_kernels.contests import OURS, Contender, Contest


def contest(
    problem: AttentionProblem, dtype_name: str, device: torch.device, names: tuple[str, ...] = baselines.NAMES
) -> Contest:
    """A problem of equally long sequences, which is what the baselines take without padding."""
    if len(set(zip(problem.queries, problem.contexts, strict=True))) != 1:
        raise ValueError(
            f"sequences must all have as many queries and keys, got {problem.queries} and {problem.contexts}"
        )
    inputs = make_inputs(problem, dtype_name, device, poisoned=False)
    keys, starts, longest = inputs.keys, inputs.query_starts, max(problem.queries)
    return Contest(
        family=FAMILY,
        problem=problem.name,
        dtype_name=dtype_name,
        terms=problem.terms,
        work=work(problem, dtype_name),
        contenders={
            OURS: Contender(lambda: attend(inputs.q, keys, starts, longest, inputs.options)),
            **baselines.contenders(problem, inputs, names),
        },
        configuration=_configuration(inputs) if device.type == "cuda" else "",
    )


def _configuration(inputs: Inputs) -> str:
    q, keys = inputs.q, inputs.keys
    tile = variants.tile_for(q, keys, inputs.options)
    origin = tables.origin(device_facts.name(q.device), FAMILY, variants.key_for(q, keys), tile)
    return f"{tile.name} ({origin})"
