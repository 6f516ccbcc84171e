"""Matmul of NVFP4 numbers: codes and the scales of their groups go to the tensor cores as they are.

Shapes
    out [M, N] = a [M, K] @ weight[N, K].T; codes [M or N, K / 2], two per byte; scales float8 [M or N, K / 16]

As in `skinny` the weight is the left operand, and programs take equal shares of the work, as `matmul.parts` describes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwatt_kernels import following as following
from tokenwatt_kernels.matmul import loads as load
from tokenwatt_kernels.matmul import parts as parts
from tokenwatt_kernels.matmul.nvfp4.operands import Nvfp4Operands
from tokenwatt_kernels.matmul.operands import descriptor
from tokenwatt_kernels.matmul.split_tile import SplitTile
from tokenwatt_kernels.number_formats.nvfp4 import GROUP

GROUP_TL = tl.constexpr(GROUP)
E2M1_FACTOR = tl.constexpr(2.0**126)


@triton.jit
def _numbers(codes, scales):
    """What codes [R, C] and scales [R, 2 C / 16] stand for, fp32 [R, 2 C], for the interpreter.

    The bits of a code, moved to where an fp32 has them, are 2^-126 of what it means.
    """
    wide = codes.to(tl.int32)
    both = tl.reshape(tl.join(wide & 15, wide >> 4), [codes.shape[0], 2 * codes.shape[1]])
    values = ((both >> 3 << 31) | ((both & 7) << 22)).to(tl.float32, bitcast=True) * E2M1_FACTOR
    groups = tl.reshape(values, [codes.shape[0], scales.shape[1], GROUP_TL]) * scales.to(tl.float32)[:, :, None]
    return tl.reshape(groups, [codes.shape[0], 2 * codes.shape[1]])


# The number of rows changes from step to step of an engine, and must not mean another compilation.
@triton.jit(do_not_specialize=["M"])
def nvfp4_kernel(
    a_ptr, weight_ptr, a_group_ptr, weight_group_ptr, out_ptr, partial_ptr, arrivals_ptr, a_desc, weight_desc,
    a_group_desc, weight_group_desc, bias_ptr, residual_ptr, a_scale_ptr, weight_scale_ptr, M, N, K, a_stride_m,
    weight_stride_n, a_group_stride_m, weight_group_stride_n, out_stride_m, residual_stride_m, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, LEAST_STEPS: tl.constexpr, DESCRIPTORS: tl.constexpr,
    FOLLOWS: tl.constexpr, JOINS: tl.constexpr, ACTIVATION: tl.constexpr, NATIVE: tl.constexpr,
):  # fmt: skip
    """Grid: (P,). partial: [P, 2, BLOCK_N, BLOCK_M] fp32, before the epilogue, to which the scales of all of a and all
    of the weight belong. NATIVE: tensor cores take the codes."""
    following.begin(FOLLOWS)
    BLOCK_B: tl.constexpr = BLOCK_K // 2
    BLOCK_G: tl.constexpr = BLOCK_K // GROUP_TL
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
            byte, group = step * BLOCK_B, step * BLOCK_G
            if DESCRIPTORS:
                weight = weight_desc.load([first_column, byte])  # [N, K / 2]
                a = a_desc.load([first_row, byte])  # [M, K / 2]
                weight_group = weight_group_desc.load([first_column, group])  # [N, K / 16]
                a_group = a_group_desc.load([first_row, group])  # [M, K / 16]
            else:
                groups = K // GROUP_TL
                weight = load.tile(weight_ptr, first_column, N, byte, K // 2, weight_stride_n, BLOCK_N, BLOCK_B)
                a = load.tile(a_ptr, first_row, M, byte, K // 2, a_stride_m, BLOCK_M, BLOCK_B)
                weight_group = load.tile(
                    weight_group_ptr, first_column, N, group, groups, weight_group_stride_n, BLOCK_N, BLOCK_G
                )
                a_group = load.tile(a_group_ptr, first_row, M, group, groups, a_group_stride_m, BLOCK_M, BLOCK_G)
            if NATIVE:
                acc = tl.dot_scaled(weight, weight_group, "e2m1", tl.trans(a), a_group, "e2m1", acc)  # [N, M]
            else:
                acc += tl.dot(_numbers(weight, weight_group), tl.trans(_numbers(a, a_group)), input_precision="ieee")
        parts.settle(
            acc, place, count, steps, share, out_ptr, partial_ptr, arrivals_ptr, bias_ptr, residual_ptr, a_scale_ptr,
            weight_scale_ptr, M, N, first_column, first_row, out_stride_m, residual_stride_m, 0, 0, JOINS, ACTIVATION,
            True,
        )  # fmt: skip
        place += count


def launch(operands: Nvfp4Operands, out: Tensor, tile: SplitTile, programs: int) -> None:
    """Write the answer for checked operands into out [M, N or N / 2]."""
    if out.numel() == 0:
        return
    a, weight, bias, residual = operands.a, operands.weight, operands.bias, operands.residual
    a_group, weight_group = operands.a_scale, operands.weight_scale
    m, n, k = operands.m, operands.n, operands.k
    partial, arrivals = parts.room(m, n, k, tile, programs, a.device)
    a_desc = weight_desc = a_group_desc = weight_group_desc = None
    if tile.descriptors:
        byte_columns, groups = tile.block_k // 2, tile.block_k // GROUP
        a_desc = descriptor(a, tile.block_m, byte_columns)
        weight_desc = descriptor(weight, tile.block_n, byte_columns)
        a_group_desc = descriptor(a_group, tile.block_m, groups)
        weight_group_desc = descriptor(weight_group, tile.block_n, groups)
    a_scale, weight_scale = operands.a_tensor_scale, operands.weight_tensor_scale
    with torch.cuda.device_of(a):
        nvfp4_kernel[(partial.shape[0],)](
            a, weight, a_group, weight_group, out, partial, arrivals, a_desc, weight_desc, a_group_desc,
            weight_group_desc, bias, residual, a_scale, weight_scale, m, n, k, a.stride(0), weight.stride(0),
            a_group.stride(0), weight_group.stride(0), out.stride(0), 0 if residual is None else residual.stride(0),
            DESCRIPTORS=tile.descriptors, NATIVE=a.is_cuda,
            JOINS=tile.joins, **following.options(a.device), **parts.constants(tile, operands.activation),
            num_warps=tile.num_warps, num_stages=tile.num_stages, maxnreg=tile.registers,
            enable_fp_fusion=True,
        )  # fmt: skip
        parts.combine(
            partial, out, bias, residual, a_scale, weight_scale, (m, n, k), (0, 0), tile, operands.activation,
            is_scaled=True,
        )  # fmt: skip
