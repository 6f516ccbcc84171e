"""Grouped matmuls in plain torch: the truth that the kernels are held to, and the answer on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels.matmul.activations import activate_reference, is_gated
from tokenwatt_kernels.matmul.dequantised import dequantised_blocks, dequantised_rows
from tokenwatt_kernels.matmul.packed.weights import PackedWeight, dequantised
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
    return product.a if product.a_scale is None else dequantised_rows(product.a, product.a_scale.double())


def dequantised_weight(product: Product) -> Tensor:
    """The weight with its factors multiplied in, in float64 if it has any; a packed one in fp32."""
    weight, scale = product.weight, product.weight_scale
    if isinstance(weight, PackedWeight):
        return dequantised(weight)
    if scale is None:
        return weight
    if product.scales == "block":
        return dequantised_blocks(weight, scale.double(), is_gated=is_gated(product.activation))
    return weight.double() * scale.double().reshape(weight.shape[0], -1, 1)
