"""cuBLAS, for the shapes where a table says that it is faster on that GPU. The epilogue is torch's own, after it."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels.matmul.activations import activate_reference
from tokenwatt_kernels.matmul.operands import Operands


def library_matmul(operands: Operands) -> Tensor:
    """The answer of torch.matmul, or of torch._scaled_mm for float8 that is not scaled in blocks."""
    product = _product(operands)
    if operands.bias is not None:
        product += operands.bias
    out = activate_reference(product, operands.activation)
    return out if operands.residual is None else out + operands.residual


def _product(operands: Operands) -> Tensor:
    a, weight = operands.a, operands.weight
    if operands.a_scale is None or operands.weight_scale is None:
        return torch.matmul(a, weight.T)
    scale_a, scale_b = operands.a_scale, operands.weight_scale
    if scale_a.numel() > 1 or scale_b.numel() > 1:
        scale_a, scale_b = scale_a.expand(operands.m)[:, None], scale_b.expand(operands.n)[None, :]
        scale_a, scale_b = scale_a.contiguous(), scale_b.contiguous()
    return torch._scaled_mm(
        a, weight.T, scale_a, scale_b, out_dtype=operands.out_dtype, use_fast_accum=operands.fast_accumulation
    )
