"""The product of activations with a weight of 4 bits."""

from __future__ import annotations

from torch import Tensor

from tokenwatt_kernels import device, tables
from tokenwatt_kernels.matmul.packed.operands import PackedOperands
from tokenwatt_kernels.matmul.packed.reference import packed_reference
from tokenwatt_kernels.matmul.packed.tiles import FAMILY, PackedKey, make_key
from tokenwatt_kernels.matmul.packed.weights import PackedWeight, check_aligned
from tokenwatt_kernels.matmul.split_tile import SplitTile
from tokenwatt_kernels.operators import operator


def key_for(operands: PackedOperands) -> PackedKey:
    """What the tile for a call depends on besides the GPU."""
    return make_key(
        operands.m,
        operands.n,
        operands.k,
        operands.weight.number_format,
        is_gated=operands.activation != "none",
        can_copy=operands.can_be_copied(),
    )


def tile_for(operands: PackedOperands) -> SplitTile:
    """The tile for a call on a GPU."""
    gpu = operands.a.device
    return tables.tile_on(FAMILY, device.name(gpu), device.capability(gpu), key_for(operands))


def run(operands: PackedOperands, out: Tensor, tile: SplitTile) -> Tensor:
    """The kernel's answer with a tile, in `out`."""
    from tokenwatt_kernels.matmul.packed.kernel import launch

    launch(operands, out, tile, tile.programs_per_multiprocessor * device.multiprocessors(operands.a.device))
    return out


def answer(operands: PackedOperands) -> Tensor:
    """The answer for checked operands: the kernel's on a GPU, the reference's on a CPU."""
    if operands.a.device.type == "cpu":
        return packed_reference(operands)
    check_aligned("weight", operands.weight)
    return run(operands, operands.new_out(), tile_for(operands))


def _fake(
    a: Tensor,
    weight: PackedWeight,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    activation: str = "none",
) -> Tensor:
    """Room for the answer."""
    operands = PackedOperands(a, weight, bias, residual, activation)
    operands.check()
    return operands.new_out()


@operator(_fake)
def packed_matmul(
    a: Tensor,
    weight: PackedWeight,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    activation: str = "none",
) -> Tensor:
    """activation(a @ weight.T + bias) + residual, accumulated in fp32; the weight [N, K] has 4 bits.

    a: [M, K], contiguous along K: on a GPU bfloat16, or float16 beside int4; on a CPU float32 too. Any M, zero
        included.
    weight: of weights.arrange_int4 or weights.arrange_mxfp4. Its numbers are exact in the product, but for those of
        mxfp4 below 2^-60; int4 scales are applied to the fp32 sums of 128 terms.
    bias: [N], residual: [M, N] or, with a gated activation, [M, N / 2]; of the dtype of a, or None.
    activation: one of activations.ACTIVATIONS; a gated one joins columns 2 j and 2 j + 1 of the product to column j, so
        the weight's rows of gate and up are interleaved before they are packed.

    Returns [M, N] or [M, N / 2] in the dtype of a. Two calls give the same bits.
    Raises TypeError or ValueError, before any launch, for arguments other than these.
    """
    operands = PackedOperands(a, weight, bias, residual, activation)
    operands.check()
    return answer(operands)
