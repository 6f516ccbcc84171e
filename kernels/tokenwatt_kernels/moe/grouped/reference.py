"""Grouped matmuls in plain torch: the truth that the kernels are held to, and the answer on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels.matmul.activations import activate_reference, is_gated
from tokenwatt_kernels.matmul.scaling import BLOCK as SCALE_BLOCK
from tokenwatt_kernels.moe.grouped.product import Product


def grouped_reference(product: Product, dtype: torch.dtype) -> Tensor:
    """The rows [R, columns] in `dtype`, one expert after another: sorted, or weighted and in the places of tokens."""
    a, weight = activations(product).to(dtype), dequantised_weight(product).to(dtype)
    order = None if product.order is None else product.order.long()
    starts = product.offsets.tolist()
    out = a.new_zeros(product.rows, product.out_columns)
    for expert in range(weight.shape[0]):
        rows = slice(starts[expert], starts[expert + 1])
        inputs = a[order[rows] // product.top_k] if order is not None and product.gathers else a[rows]
        answers = inputs @ weight[expert].T
        if product.bias is not None:
            answers = answers + product.bias[expert].to(dtype)
        answers = activate_reference(answers, product.activation)
        if order is not None and product.token_weights is not None:
            out[order[rows]] = answers * product.token_weights.flatten()[order[rows]].to(dtype)[:, None]
        else:
            out[rows] = answers
    return out


def reference_answer(product: Product, residual: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The sorted rows [R, columns], or the sum over each token's slots and the residual, [T, columns], in `dtype`."""
    rows = grouped_reference(product, dtype)
    if product.token_weights is None:
        return rows
    sums = rows.unflatten(0, product.token_weights.shape).sum(1)
    return sums if residual is None else sums + residual.to(dtype)


def activations(product: Product) -> Tensor:
    """a with its factors multiplied in, in float64 if it has any."""
    if product.a_scale is None:
        return product.a
    scale = product.a_scale.double()
    scale = scale.repeat_interleave(SCALE_BLOCK, 1) if scale.dim() == 2 else scale[:, None]
    return product.a.double() * scale


def dequantised_weight(product: Product) -> Tensor:
    """The weight with its factors multiplied in, in float64 if it has any."""
    weight, scale = product.weight, product.weight_scale
    if scale is None:
        return weight
    scale = scale.double()
    if product.scales == "block":
        columns = torch.arange(weight.shape[1], device=weight.device)
        scale = scale[:, scale_row(columns, product.activation)].repeat_interleave(SCALE_BLOCK, 2)
    else:
        scale = scale.reshape(weight.shape[0], -1, 1)
    return weight.double() * scale


def scale_row(columns: Tensor, activation: str) -> Tensor:
    """Which row of a block-scaled weight's factors holds for each column of the product."""
    if is_gated(activation):
        return columns // (2 * SCALE_BLOCK) * 2 + columns % 2
    return columns // SCALE_BLOCK
