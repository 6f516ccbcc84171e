"""A matmul of NVFP4 numbers in plain torch: the truth that the kernel is held to, and the answer on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels.matmul.nvfp4.operands import OUT_DTYPE, Nvfp4Operands
from tokenwatt_kernels.matmul.operands import Operands
from tokenwatt_kernels.matmul.reference import matmul_reference
from tokenwatt_kernels.number_formats.nvfp4 import Nvfp4, dequantise_nvfp4


def unpacked(operands: Nvfp4Operands, dtype: torch.dtype) -> Operands:
    """The same matmul with every number in `dtype`."""
    a = Nvfp4(operands.a, operands.a_scale, operands.a_tensor_scale)
    weight = Nvfp4(operands.weight, operands.weight_scale, operands.weight_tensor_scale)
    return Operands(
        dequantise_nvfp4(a, dtype),
        dequantise_nvfp4(weight, dtype),
        operands.bias,
        operands.residual,
        activation=operands.activation,
    )


def nvfp4_reference(operands: Nvfp4Operands, dtype: torch.dtype | None = None) -> Tensor:
    """The answer computed and given in `dtype`; or else computed in fp32 and given in bfloat16."""
    if dtype is None:
        return nvfp4_reference(operands, torch.float32).to(OUT_DTYPE)
    return matmul_reference(unpacked(operands, dtype), dtype)
