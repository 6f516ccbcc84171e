"""A matmul with a packed weight in plain torch: the truth that the kernel is held to, and the answer on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels.matmul.operands import Operands
from tokenwatt_kernels.matmul.packed.operands import PackedOperands
from tokenwatt_kernels.matmul.packed.weights import dequantised
from tokenwatt_kernels.matmul.reference import matmul_reference


def unpacked(operands: PackedOperands, dtype: torch.dtype) -> Operands:
    """The same matmul with every number of the weight in `dtype`, and a too."""
    return Operands(
        operands.a.to(dtype),
        dequantised(operands.weight, dtype),
        operands.bias,
        operands.residual,
        activation=operands.activation,
    )


def packed_reference(operands: PackedOperands, dtype: torch.dtype | None = None) -> Tensor:
    """The answer, computed and given in `dtype`, or else in that of a."""
    kept = dtype or operands.a.dtype
    return matmul_reference(unpacked(operands, kept), kept)
