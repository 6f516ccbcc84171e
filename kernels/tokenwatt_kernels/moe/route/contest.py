"""Routing against the same in PyTorch, eager and compiled. Both wait for nothing, and read nothing back."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels import tables
from tokenwatt_kernels.contests import OURS, Contender, Contest, compiled
from tokenwatt_kernels.moe.route.call import moe_route, tile_for
from tokenwatt_kernels.moe.route.problems import RouteProblem
from tokenwatt_kernels.moe.route.reference import route_reference
from tokenwatt_kernels.moe.route.tiles import FAMILY, key_of
from tokenwatt_kernels.moe.route.work import work


def contest(problem: RouteProblem, dtype_name: str, device: torch.device) -> Contest:
    """Standard normal logits. Every contender makes all five tensors; their weights are held against each other.

    Of sorted rows nothing is compared: in 16 bits some logits are equal, and each contender may choose among them.
    """
    choice = problem.choice
    generator = torch.Generator(device).manual_seed(0)
    logits = torch.randn(problem.tokens, problem.experts, generator=generator, device=device)
    logits = logits.to(getattr(torch, dtype_name))
    bias = torch.randn(problem.experts, generator=generator, device=device) / 4 if problem.has_bias else None
    contenders = {
        OURS: Contender(
            lambda: moe_route(
                logits, bias, top_k=choice.top_k, score=choice.score, renormalize=choice.renormalize,
                groups=choice.groups, top_groups=choice.top_groups, scale=choice.scale,
            )[0]
        ),
        "torch_eager": Contender(lambda: route_reference(logits.float(), bias, choice)[0]),
    }  # fmt: skip
    if device.type == "cuda":
        fused = compiled(route_reference)
        contenders["torch_compile"] = Contender(lambda: fused(logits.float(), bias, choice)[0], is_compiled=True)
    return Contest(
        family=FAMILY,
        problem=problem.name,
        dtype_name=dtype_name,
        terms=problem.terms,
        work=work(problem, dtype_name),
        contenders=contenders,
        configuration=_configuration(problem, dtype_name, logits) if device.type == "cuda" else "",
        held_to="float32",
    )


def _configuration(problem: RouteProblem, dtype_name: str, logits: Tensor) -> str:
    tile = tile_for(logits)
    return f"{tile.name} ({tables.origin(device_facts.name(logits.device), FAMILY, key_of(problem, dtype_name), tile)})"
