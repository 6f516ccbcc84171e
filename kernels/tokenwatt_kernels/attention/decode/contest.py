"""Decode attention over a paged cache, against PyTorch's attention over the same tokens gathered beforehand."""

from __future__ import annotations

import torch

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels import tables
from tokenwatt_kernels.attention import baselines
from tokenwatt_kernels.attention.decode.call import attend, key_for, tile_for
from tokenwatt_kernels.attention.decode.tiles import FAMILY
from tokenwatt_kernels.attention.inputs import make_inputs
from tokenwatt_kernels.attention.keys import Keys
from tokenwatt_kernels.attention.problem import AttentionProblem
from tokenwatt_kernels.attention.work import work
from tokenwatt_kernels.contests import OURS, Contender, Contest


def contest(
    problem: AttentionProblem, dtype_name: str, device: torch.device, names: tuple[str, ...] = baselines.NAMES
) -> Contest:
    """A problem of equally long sequences. No fused baseline takes the width of a latent: there the plain one plays."""
    if len(set(zip(problem.queries, problem.contexts, strict=True))) != 1:
        raise ValueError(
            f"sequences must all have as many queries and keys, got {problem.queries} and {problem.contexts}"
        )
    inputs = make_inputs(problem, dtype_name, device, poisoned=False)
    keys, queries = inputs.keys, problem.queries[0]
    if problem.is_latent and device.type == "cuda":
        names = (*names, "sdpa_math")
    return Contest(
        family=FAMILY,
        problem=problem.name,
        dtype_name=dtype_name,
        terms=problem.terms,
        work=work(problem, dtype_name),
        contenders={
            OURS: Contender(lambda: attend(inputs.q, queries, keys, inputs.options)),
            **baselines.contenders(problem, inputs, names),
        },
        configuration=_configuration(inputs.q, queries, keys) if device.type == "cuda" else "",
    )


def _configuration(q: torch.Tensor, queries: int, keys: Keys) -> str:
    tile = tile_for(q, queries, keys)
    return f"{tile.name} ({tables.origin(device_facts.name(q.device), FAMILY, key_for(q, queries, keys), tile)})"
