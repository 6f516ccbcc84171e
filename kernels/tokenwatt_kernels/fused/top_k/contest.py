"""The choice of tokens against torch.topk and logsumexp."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels import tables
from tokenwatt_kernels.contests import OURS, Contender, Contest, compiled
from tokenwatt_kernels.fused.top_k.call import tile_for, top_k
from tokenwatt_kernels.fused.top_k.problems import TopKProblem
from tokenwatt_kernels.fused.top_k.reference import transformed_reference
from tokenwatt_kernels.fused.top_k.tiles import FAMILY, make_key
from tokenwatt_kernels.fused.top_k.work import work


def contest(problem: TopKProblem, dtype_name: str, device: torch.device) -> Contest:
    """Random normal logits. Which of equal ones torch takes is not said, so values are compared, not indices."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (problem.rows, problem.vocabulary)
    logits = torch.randn(shape, generator=generator, device=device).to(getattr(torch, dtype_name))
    temperature = 0.5 + torch.rand(problem.rows, generator=generator, device=device)
    given = temperature if problem.has_temperature else None

    def by_torch() -> tuple[Tensor, Tensor, Tensor]:
        values, indices = torch.topk(logits, problem.k, dim=1)
        log_sum = transformed_reference(logits, given, problem.softcap).logsumexp(1)
        return transformed_reference(values, given, problem.softcap), indices, log_sum

    contenders = {
        OURS: Contender(lambda: top_k(logits, problem.k, given, softcap=problem.softcap), _numbers(logits)),
        "torch": Contender(by_torch, _numbers(logits)),
    }
    if device.type == "cuda":
        contenders["torch_compile"] = Contender(compiled(by_torch), _numbers(logits), is_compiled=True)
    return Contest(
        family=FAMILY,
        problem=problem.name,
        dtype_name=dtype_name,
        terms=problem.terms,
        work=work(problem, dtype_name),
        contenders=contenders,
        configuration=_configuration(logits, problem.k) if device.type == "cuda" else "",
        held_to="float32",
    )


def _numbers(logits: Tensor) -> Callable[[tuple[Tensor, Tensor, Tensor]], Tensor]:
    """Values, logits at the indices, and log-sum-exp of each row, side by side."""

    def numbers(answer: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        values, indices, log_sum = answer
        return torch.cat([values, logits.float().gather(1, indices.long()), log_sum[:, None]], dim=1)

    return numbers


def _configuration(logits: Tensor, k: int) -> str:
    tile = tile_for(logits, k)
    key = make_key(k, logits.element_size())
    return f"{tile.name} ({tables.origin(device_facts.name(logits.device), FAMILY, key, tile)})"
