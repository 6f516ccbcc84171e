"""What scaled float8 operands stand for, in plain torch."""

from __future__ import annotations

from torch import Tensor

from tokenwatt_kernels.matmul.activations import interleave
from tokenwatt_kernels.matmul.scaling import BLOCK
from tokenwatt_kernels.number_formats.float8 import expand_blocks


def dequantised_rows(rows: Tensor, scale: Tensor) -> Tensor:
    """The numbers of rows [M, K] with scales [1], [M] or [M, K / 128], in the dtype of `scale`."""
    m, k = rows.shape
    factors = expand_blocks(scale, m, k, 1, BLOCK) if scale.dim() == 2 else scale[:, None]
    return rows.to(scale.dtype) * factors


def dequantised_blocks(weight: Tensor, scale: Tensor, *, is_gated: bool) -> Tensor:
    """The numbers of a weight [..., N, K] with block scales of the shape of `scaling`, in the dtype of `scale`."""
    n, k = weight.shape[-2:]
    if is_gated:
        gate, up = (scale[..., first::2, :].repeat_interleave(BLOCK, -2) for first in (0, 1))
        factors = expand_blocks(interleave(gate, up), n, k, 1, BLOCK)
    else:
        factors = expand_blocks(scale, n, k, BLOCK, BLOCK)
    return weight.to(scale.dtype) * factors
