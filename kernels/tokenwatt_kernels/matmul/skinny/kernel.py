"""Matmul of few rows: the weight is streamed once, in equal shares, and takes the place of the left operand.

Shapes
    out [M, N] = a [M, K] @ weight[N, K].T with M <= BLOCK_M; a tile is BLOCK_N columns of out and all of its rows
    P programs

The product is computed as weight @ a.T, because tensor cores take 64 rows and more of the left operand at a time but
as few as 8 columns of the right one: so the stream feeds whole instructions, and M pads to 16 alone.

Programs take equal shares of the work along K, as `matmul.parts` describes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwatt_kernels import following as following
from tokenwatt_kernels.matmul import loads as load
from tokenwatt_kernels.matmul import parts as parts
from tokenwatt_kernels.matmul.operands import Operands, descriptor
from tokenwatt_kernels.matmul.split_tile import SplitTile

BY_ROW = ("tensor", "token_channel")
"""Scalings that the epilogue applies."""


# The number of rows changes from step to step of an engine, and must not mean another compilation.
@triton.jit(do_not_specialize=["M"])
def split_kernel(
    a_ptr, weight_ptr, out_ptr, partial_ptr, arrivals_ptr, a_desc, weight_desc, bias_ptr, residual_ptr, a_scale_ptr,
    weight_scale_ptr, M, N, K, a_stride_m, weight_stride_n, out_stride_m, residual_stride_m, a_scale_stride_m,
    a_scale_stride_k, weight_scale_stride_n, weight_scale_stride_k, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, LEAST_STEPS: tl.constexpr, DESCRIPTORS: tl.constexpr, FOLLOWS: tl.constexpr,
    JOINS: tl.constexpr, ACTIVATION: tl.constexpr, SCALED: tl.constexpr, BLOCKED: tl.constexpr, PROMOTES: tl.constexpr,
):  # fmt: skip
    """Grid: (P,). partial: [P, 2, BLOCK_N, BLOCK_M] fp32, before the epilogue.

    SCALED: rows and columns have scales. BLOCKED: steps along K have them instead. PROMOTES: the sum of a step leaves
    the tensor cores' accumulator for an fp32 one.
    """
    following.begin(FOLLOWS)
    steps, total, share = parts.line(M, N, K, BLOCK_M, BLOCK_N, BLOCK_K, LEAST_STEPS)
    program = tl.program_id(0)
    place = program * share
    stop = tl.minimum(place + share, total)
    while place < stop:
        first_step = place % steps
        count = tl.minimum(steps - first_step, stop - place)
        first_row, first_column = parts.corner(place // steps, M, BLOCK_M, BLOCK_N)
        acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        for step in range(first_step, first_step + count):
            first = step * BLOCK_K
            if DESCRIPTORS:
                weight = weight_desc.load([first_column, first])  # [N, K]
                a = a_desc.load([first_row, first])  # [M, K]
            else:
                weight = load.tile(weight_ptr, first_column, N, first, K, weight_stride_n, BLOCK_N, BLOCK_K)
                a = load.tile(a_ptr, first_row, M, first, K, a_stride_m, BLOCK_M, BLOCK_K)
            if BLOCKED:
                a_scales, weight_scales = load.block_scales(
                    a_scale_ptr, weight_scale_ptr, first_row + tl.arange(0, BLOCK_M), M, first_column, first,
                    a_scale_stride_m, a_scale_stride_k, weight_scale_stride_n, weight_scale_stride_k, BLOCK_N,
                    ACTIVATION != "none",
                )  # fmt: skip
                scales = weight_scales[:, None] * a_scales[None, :]
                acc += tl.dot(weight, tl.trans(a), max_num_imprecise_acc=BLOCK_K) * scales  # [N, M]
            elif PROMOTES:
                acc += tl.dot(weight, tl.trans(a), max_num_imprecise_acc=BLOCK_K)
            else:
                acc = tl.dot(weight, tl.trans(a), acc, input_precision="ieee")
        parts.settle(
            acc, place, count, steps, share, out_ptr, partial_ptr, arrivals_ptr, bias_ptr, residual_ptr, a_scale_ptr,
            weight_scale_ptr, M, N, first_column, first_row, out_stride_m, residual_stride_m, a_scale_stride_m,
            weight_scale_stride_n, JOINS, ACTIVATION, SCALED,
        )  # fmt: skip
        place += count


def launch(operands: Operands, out: Tensor, tile: SplitTile, programs: int, *, promotes: bool) -> None:
    """Write the answer for checked operands into out [M, N or N / 2].

    promotes: float8 sums leave the tensor cores' accumulator at every step.
    """
    if out.numel() == 0:
        return
    a, weight, bias, residual = operands.a, operands.weight, operands.bias, operands.residual
    m, n, k = operands.m, operands.n, operands.k
    partial, arrivals = parts.room(m, n, k, tile, programs, a.device)
    a_desc = weight_desc = None
    if tile.descriptors:
        a_desc = descriptor(a, tile.block_m, tile.block_k)
        weight_desc = descriptor(weight, tile.block_n, tile.block_k)
    a_stride_m, a_stride_k, weight_stride_n, weight_stride_k = operands.scale_strides()
    is_scaled = operands.scaling in BY_ROW
    with torch.cuda.device_of(a):
        split_kernel[(partial.shape[0],)](
            a, weight, out, partial, arrivals, a_desc, weight_desc, bias, residual, operands.a_scale,
            operands.weight_scale, m, n, k, a.stride(0), weight.stride(0), out.stride(0),
            0 if residual is None else residual.stride(0), a_stride_m, a_stride_k, weight_stride_n, weight_stride_k,
            DESCRIPTORS=tile.descriptors, SCALED=is_scaled, BLOCKED=operands.scaling == "block", PROMOTES=promotes,
            JOINS=tile.joins, **following.options(a.device), **parts.constants(tile, operands.activation),
            num_warps=tile.num_warps, num_stages=tile.num_stages, maxnreg=tile.registers, enable_fp_fusion=True,
        )  # fmt: skip
        parts.combine(
            partial, out, bias, residual, operands.a_scale, operands.weight_scale, (m, n, k),
            (a_stride_m, weight_stride_n), tile, operands.activation, is_scaled=is_scaled,
        )  # fmt: skip
