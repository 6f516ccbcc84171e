"""The product of activations with a weight in the layout of nn.Linear."""

from __future__ import annotations

from torch import Tensor

from tokenwatt_kernels.matmul.dispatch import answer
from tokenwatt_kernels.matmul.operands import Operands
from tokenwatt_kernels.operators import operator

FEW_ROWS = 64
"""Up to here a matmul is a stream of the weight, which `skinny` answers; beyond it `dense` does."""


def _fake(
    a: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    a_scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
    *,
    activation: str = "none",
    fast_accumulation: bool = False,
) -> Tensor:
    """Room for the answer."""
    operands = Operands(a, weight, bias, residual, a_scale, weight_scale, activation, fast_accumulation)
    operands.check()
    return operands.new_out()


@operator(_fake)
def matmul(
    a: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    a_scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
    *,
    activation: str = "none",
    fast_accumulation: bool = False,
) -> Tensor:
    """activation(a @ weight.T + bias) + residual, accumulated in fp32.

    a: [M, K], weight: [N, K], one of float32, float16, bfloat16 or float8_e4m3fn, each contiguous along K. Any size,
        zero included.
    bias: [N], residual: [M, N] or, with a gated activation, [M, N / 2]; of the output's dtype, or None.
    a_scale, weight_scale: what float8 elements are multiplied by, fp32: [1] or [M] beside [1] or [N], or
        [M, K / 128] beside [N / 128, K / 128], rounded up (`scaling.SCALINGS`). Of a gated activation the last are
        those of gate and up in turns, [2 (N / 256), K / 128], as the weight's rows are. None for other dtypes.
    activation: one of activations.ACTIVATIONS; a gated one joins columns 2 j and 2 j + 1 of the product to column j.
    fast_accumulation: leave float8 sums in the tensor cores' accumulator, which keeps some 14 bits on sm_89 and sm_90.
        Otherwise they leave it for an fp32 sum every 64 or 128 terms there.

    Returns [M, N] or [M, N / 2] in the dtype of a, bfloat16 for float8: a Triton kernel's answer on CUDA, or cuBLAS's
    where the table of that GPU says that it is faster, torch's own on a CPU. Two calls give the same bits. The
    kernels round once, at the end; cuBLAS and torch round the product too.
    Raises TypeError or ValueError, before any launch, for arguments other than these.
    """
    operands = Operands(a, weight, bias, residual, a_scale, weight_scale, activation, fast_accumulation)
    operands.check()
    return answer("matmul.skinny" if operands.m <= FEW_ROWS else "matmul.dense", operands)
