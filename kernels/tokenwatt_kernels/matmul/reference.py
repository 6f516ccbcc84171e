"""A matmul in plain torch: the truth that the kernels are held to, and the engine's path on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels.matmul.activations import activate_reference
from tokenwatt_kernels.matmul.dequantised import dequantised_blocks, dequantised_rows
from tokenwatt_kernels.matmul.operands import Operands

FEW_ROWS = 4
"""Up to here weight @ a.T reads the weight 1.2 to 4 times as fast as a @ weight.T does with MKL on two cores."""


def matmul_reference(operands: Operands, dtype: torch.dtype | None = None) -> Tensor:
    """The answer, computed in `dtype` or else in the output's (of float8 in fp32), in the output's dtype or in `dtype`.

    Sums of 16-bit operands are rounded before the epilogue, as torch's own matmul has it.
    """
    a, weight = operands.a, operands.weight
    kept = dtype or operands.out_dtype
    working = torch.float32 if operands.a_scale is not None and kept.itemsize < 4 else kept
    if operands.a_scale is not None and operands.weight_scale is not None:
        a = dequantised_rows(a, operands.a_scale.to(working))
        weight_scale = operands.weight_scale.to(working)
        if operands.scaling == "block":
            weight = dequantised_blocks(weight, weight_scale, is_gated=operands.is_gated)
        else:
            weight = dequantised_rows(weight, weight_scale)
    product = _product(a.to(working), weight.to(working))
    if operands.bias is not None:
        product = product + operands.bias.to(working)
    out = activate_reference(product, operands.activation)
    if operands.residual is not None:
        out = out + operands.residual.to(working)
    return out.to(kept)


def _product(a: Tensor, weight: Tensor) -> Tensor:
    """a [M, K] @ weight[N, K].T, arranged so that a processor streams the weight once for the few rows of decode."""
    rows = a.shape[0]
    if a.device.type != "cpu" or not 0 < rows <= FEW_ROWS:
        return a @ weight.T
    # A lone row is doubled: the matrix-vector routine is half as fast as a product with two columns.
    columns = a.repeat(2, 1) if rows == 1 else a
    return (weight @ columns.T)[:, :rows].T.contiguous()
