"""Matmul with a weight of 4 bits: the stream of the weight becomes 16 bits in registers, and goes on to tensor cores.

Shapes
    out [M, N] = a [M, K] @ weight[N, K].T; words [chunks, N, 32] and scales [chunks, N] as `weights` arranges them

The weight is the left operand, which sm_90 takes from registers, so that a number is not stored again once it is
unpacked; sm_100 takes it from tensor memory, 128 columns at a time. A step is one chunk of 128 columns. Programs take
equal shares of all steps, as `matmul.parts` describes; for many rows, tiles of rows that share columns follow each
other.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwatt_kernels import following as following
from tokenwatt_kernels.matmul import loads as load
from tokenwatt_kernels.matmul import parts as parts
from tokenwatt_kernels.matmul.operands import descriptor
from tokenwatt_kernels.matmul.packed import unpack as unpack
from tokenwatt_kernels.matmul.packed.formats import WORDS
from tokenwatt_kernels.matmul.packed.operands import PackedOperands
from tokenwatt_kernels.matmul.split_tile import SplitTile

BLOCK_W = tl.constexpr(WORDS)


# The number of rows changes from step to step of an engine, and must not mean another compilation.
@triton.jit(do_not_specialize=["M"])
def packed_kernel(
    a_ptr, words_ptr, scales_ptr, out_ptr, partial_ptr, arrivals_ptr, a_desc, words_desc, scales_desc, bias_ptr,
    residual_ptr, M, N, K, a_stride_m, out_stride_m, residual_stride_m, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, LEAST_STEPS: tl.constexpr, DESCRIPTORS: tl.constexpr, FOLLOWS: tl.constexpr,
    JOINS: tl.constexpr, ACTIVATION: tl.constexpr, NUMBER_FORMAT: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """Grid: (P,). partial: [P, 2, BLOCK_N, BLOCK_M] fp32, before the epilogue. PTX: a GPU runs it."""
    following.begin(FOLLOWS)
    steps, total, share = parts.line(M, N, K, BLOCK_M, BLOCK_N, BLOCK_K, LEAST_STEPS)
    program = tl.program_id(0)
    place = program * share
    stop = tl.minimum(place + share, total)
    while place < stop:
        first_step = place % steps
        count = tl.minimum(steps - first_step, stop - place)
        first_row, first_column = parts.corner(place // steps, M, BLOCK_M, BLOCK_N)
        columns = first_column + tl.arange(0, BLOCK_N)
        acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        # A product of no terms has one step, in which there is nothing to read.
        for step in range(first_step, tl.minimum(first_step + count, tl.cdiv(K, BLOCK_K))):
            if DESCRIPTORS:
                # Behind the last column lie words of the next chunk, whose sums nobody stores.
                words = words_desc.load([step * N + first_column, 0])
                scales = tl.reshape(scales_desc.load([step, first_column]), [BLOCK_N])
                a = a_desc.load([first_row, step * BLOCK_K])  # [M, K]
            else:
                row = tl.cast(step, tl.int64) * N
                words = load.tile(words_ptr + row * BLOCK_W, first_column, N, 0, BLOCK_W, BLOCK_W, BLOCK_N, BLOCK_W)
                scales = tl.load(scales_ptr + row + columns, mask=columns < N, other=0)
                a = load.tile(a_ptr, first_row, M, step * BLOCK_K, K, a_stride_m, BLOCK_M, BLOCK_K)
            weight = unpack.numbers(words, scales, NUMBER_FORMAT, a.dtype, PTX)  # [N, K]
            if NUMBER_FORMAT == "int4":
                acc += tl.dot(weight, tl.trans(a)) * unpack.int4_scales(scales)[:, None]  # [N, M]
            else:
                acc = tl.dot(weight, tl.trans(a), acc)
        if NUMBER_FORMAT == "mxfp4":
            acc *= unpack.SUM_FACTOR
        parts.settle(
            acc, place, count, steps, share, out_ptr, partial_ptr, arrivals_ptr, bias_ptr, residual_ptr, None, None, M,
            N, first_column, first_row, out_stride_m, residual_stride_m, 0, 0, JOINS, ACTIVATION, False,
        )  # fmt: skip
        place += count


def launch(operands: PackedOperands, out: Tensor, tile: SplitTile, programs: int) -> None:
    """Write the answer for checked operands into out [M, N or N / 2]."""
    if out.numel() == 0:
        return
    a, weight, bias, residual = operands.a, operands.weight, operands.bias, operands.residual
    m, n, k = operands.m, operands.n, operands.k
    partial, arrivals = parts.room(m, n, k, tile, programs, a.device)
    a_desc = words_desc = scales_desc = None
    if tile.descriptors:
        a_desc = descriptor(a, tile.block_m, tile.block_k)
        words_desc = descriptor(weight.words.flatten(0, 1), tile.block_n, WORDS)
        scales_desc = descriptor(weight.scale_rows, 1, tile.block_n)
    with torch.cuda.device_of(a):
        packed_kernel[(partial.shape[0],)](
            a, weight.words, weight.scales, out, partial, arrivals, a_desc, words_desc, scales_desc, bias, residual,
            m, n, k, a.stride(0), out.stride(0), 0 if residual is None else residual.stride(0),
            DESCRIPTORS=tile.descriptors, NUMBER_FORMAT=weight.number_format, PTX=a.is_cuda,
            JOINS=tile.joins, **following.options(a.device), **parts.constants(tile, operands.activation),
            num_warps=tile.num_warps, num_stages=tile.num_stages, maxnreg=tile.registers, enable_fp_fusion=True,
        )  # fmt: skip
        parts.combine(
            partial, out, bias, residual, None, None, (m, n, k), (0, 0), tile, operands.activation, is_scaled=False
        )
