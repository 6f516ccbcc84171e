"""Grouped matmuls against PyTorch: its grouped_mm, and one torch.matmul after another."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels import tables
from tokenwatt_kernels.contests import OURS, Contender, Contest
from tokenwatt_kernels.matmul.activations import activate_reference
from tokenwatt_kernels.moe.grouped.call import answer, key_for, tile_for
from tokenwatt_kernels.moe.grouped.inputs import Inputs, make_inputs
from tokenwatt_kernels.moe.grouped.problems import FLOAT8, GroupedProblem
from tokenwatt_kernels.moe.grouped.product import Product
from tokenwatt_kernels.moe.grouped.reference import activations, dequantised_weight
from tokenwatt_kernels.moe.grouped.tiles import FAMILY
from tokenwatt_kernels.moe.grouped.work import work

Multiply = Callable[[Tensor, Tensor], Tensor]


def contest(problem: GroupedProblem, dtype_name: str, device: torch.device) -> Contest:
    """Every contender gathers, multiplies, activates and combines.

    For float8 and mxfp4 the baselines multiply in bfloat16, for which their numbers are unpacked beforehand.

    The loop knows the rows of each expert beforehand, as no model can without waiting for the GPU.
    """
    inputs = make_inputs(problem, dtype_name, device, poisoned=False)
    product = inputs.product
    a, weight = product.a, dequantised_weight(product)
    suffix = ""
    if dtype_name == FLOAT8 or problem.is_mxfp4:
        a, weight = activations(product).to(torch.bfloat16), weight.to(torch.bfloat16)
        suffix = "_bf16"
    starts = product.offsets.tolist()
    bounds = list(pairwise(starts))
    ends = product.offsets[1:]

    def loop(rows: Tensor, weight: Tensor) -> Tensor:
        return torch.cat([rows[first:last] @ weight[expert].T for expert, (first, last) in enumerate(bounds)])

    def grouped_mm(rows: Tensor, weight: Tensor) -> Tensor:
        return torch.nn.functional.grouped_mm(rows, weight.mT, offs=ends)

    ways: dict[str, Multiply] = {f"torch_loop{suffix}": loop}
    if a.dtype == torch.bfloat16:
        ways[f"torch_grouped_mm{suffix}"] = grouped_mm
    whose = _experts(product)
    baselines = {
        name: Contender(lambda multiply=multiply: _baseline(multiply, a, weight, inputs, whose))
        for name, multiply in ways.items()
    }
    return Contest(
        family=FAMILY,
        problem=problem.name,
        dtype_name=dtype_name,
        terms=problem.terms,
        work=work(problem, dtype_name),
        contenders={OURS: Contender(lambda: answer(product, inputs.residual)), **baselines},
        configuration=_configuration(product) if device.type == "cuda" else "",
    )


def _experts(product: Product) -> Tensor:
    """The expert of each sorted row."""
    rows = torch.arange(product.rows, device=product.offsets.device)
    return torch.searchsorted(product.offsets[1:].contiguous(), rows, right=True)


def _baseline(multiply: Multiply, a: Tensor, weight: Tensor, inputs: Inputs, whose: Tensor) -> Tensor:
    product = inputs.product
    rows = a[product.order // product.top_k] if product.order is not None and product.gathers else a
    answers = multiply(rows, weight)
    if product.bias is not None:
        answers = answers + product.bias[whose]
    answers = activate_reference(answers, product.activation)
    if product.order is None or product.token_weights is None:
        return answers
    unsorted = torch.empty_like(answers)
    unsorted[product.order] = answers
    sums = (unsorted.unflatten(0, product.token_weights.shape) * product.token_weights[..., None]).sum(1)
    return (sums if inputs.residual is None else sums + inputs.residual).to(answers.dtype)


def _configuration(product: Product) -> str:
    tile = tile_for(product)
    return f"{tile.name} ({tables.origin(device_facts.name(product.a.device), FAMILY, key_for(product), tile)})"
