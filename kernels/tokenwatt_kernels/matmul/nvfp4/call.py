"""The product of activations and a weight that are both NVFP4."""

from __future__ import annotations

from torch import Tensor

from tokenwatt_kernels import device, tables
from tokenwatt_kernels.matmul.nvfp4.operands import Nvfp4Operands
from tokenwatt_kernels.matmul.nvfp4.reference import nvfp4_reference
from tokenwatt_kernels.matmul.nvfp4.tiles import FAMILY, Nvfp4Key, make_key
from tokenwatt_kernels.matmul.split_tile import SplitTile
from tokenwatt_kernels.operators import operator


def key_for(operands: Nvfp4Operands) -> Nvfp4Key:
    """What the tile for a call depends on besides the GPU."""
    return make_key(
        operands.m,
        operands.n,
        operands.k,
        is_gated=operands.activation != "none",
        can_copy=operands.can_be_copied(),
    )


def tile_for(operands: Nvfp4Operands) -> SplitTile:
    """The tile for a call on a GPU."""
    gpu = operands.a.device
    return tables.tile_on(FAMILY, device.name(gpu), device.capability(gpu), key_for(operands))


def run(operands: Nvfp4Operands, out: Tensor, tile: SplitTile) -> Tensor:
    """The kernel's answer with a tile, in `out`."""
    from tokenwatt_kernels.matmul.nvfp4.kernel import launch

    launch(operands, out, tile, tile.programs_per_multiprocessor * device.multiprocessors(operands.a.device))
    return out


def answer(operands: Nvfp4Operands) -> Tensor:
    """The answer for checked operands: the kernel's on a GPU, the reference's on a CPU."""
    if operands.a.device.type == "cpu":
        return nvfp4_reference(operands)
    device.check_nvfp4(operands.a.device)
    return run(operands, operands.new_out(), tile_for(operands))


def _fake(
    a: Tensor,
    weight: Tensor,
    a_scale: Tensor,
    weight_scale: Tensor,
    a_tensor_scale: Tensor,
    weight_tensor_scale: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    activation: str = "none",
) -> Tensor:
    """Room for the answer."""
    operands = Nvfp4Operands(
        a, weight, a_scale, weight_scale, a_tensor_scale, weight_tensor_scale, bias, residual, activation
    )
    operands.check()
    return operands.new_out()


@operator(_fake)
def nvfp4_matmul(
    a: Tensor,
    weight: Tensor,
    a_scale: Tensor,
    weight_scale: Tensor,
    a_tensor_scale: Tensor,
    weight_tensor_scale: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    activation: str = "none",
) -> Tensor:
    """activation(a @ weight.T + bias) + residual, accumulated in fp32, of NVFP4 numbers (number_formats.nvfp4).

    a: codes uint8 [M, K / 2], weight: codes uint8 [N, K / 2]; any M, K divisible by 16.
    a_scale: float8_e4m3fn [M, K / 16], weight_scale: float8_e4m3fn [N, K / 16], a factor for each 16 terms.
    a_tensor_scale, weight_tensor_scale: fp32 [1], a factor for all.
    bias: [N], residual: [M, N] or, with a gated activation, [M, N / 2]; bfloat16, or None.
    activation: one of activations.ACTIVATIONS; a gated one joins columns 2 j and 2 j + 1 of the product to column j.

    Returns [M, N] or [M, N / 2] in bfloat16. Two calls give the same bits. Tensor cores from sm_100 on.
    Raises TypeError or ValueError, before any launch, for arguments other than these and on an older GPU.
    """
    operands = Nvfp4Operands(
        a, weight, a_scale, weight_scale, a_tensor_scale, weight_tensor_scale, bias, residual, activation
    )
    operands.check()
    return answer(operands)
