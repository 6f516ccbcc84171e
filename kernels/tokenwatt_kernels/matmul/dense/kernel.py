"""Matmul of many rows: programs that stay on their multiprocessor and take one tile of the output after another.

Shapes
    out [M, N] = a [M, K] @ weight[N, K].T; a tile is BLOCK_M x BLOCK_N of out, its sum walks K in steps of BLOCK_K

Tiles are numbered in groups of GROUP_M row tiles, so that those computed at one time share weight tiles in L2. Where
the hardware copies tiles (DESCRIPTORS), no thread computes an address on the way, and the copies of the next tile start
while the last one is stored. A tile is stored in PARTS parts, so that the epilogue needs no second set of registers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwatt_kernels.matmul import loads as load
from tokenwatt_kernels.matmul.dense.tiles import DenseTile
from tokenwatt_kernels.matmul.epilogue import activate, pairs_of_columns
from tokenwatt_kernels.matmul.operands import Operands, descriptor


@triton.jit
def _place(tile, row_tiles, column_tiles, GROUP_M: tl.constexpr):
    """Row tile and column tile of the tile with a number."""
    group = tile // (GROUP_M * column_tiles)
    rows_in_group = tl.minimum(row_tiles - group * GROUP_M, GROUP_M)
    within = tile % (GROUP_M * column_tiles)
    return group * GROUP_M + within % rows_in_group, within // rows_in_group


@triton.jit
def _finish(
    acc, out_ptr, out_desc, bias_ptr, residual_ptr, a_scale_ptr, weight_scale_ptr, M, N, first_row, first_column,
    out_stride_m, residual_stride_m, a_scale_stride_m, weight_scale_stride_n,
    ACTIVATION: tl.constexpr, SCALED: tl.constexpr, DESCRIPTORS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The epilogue of sums [R, C] whose corner is at first_row, first_column of the product, in PARTS parts."""
    if PARTS > 1:
        HALF: tl.constexpr = acc.shape[1] // 2
        halves = tl.split(tl.permute(tl.reshape(acc, [acc.shape[0], 2, HALF]), (0, 2, 1)))
        for half in tl.static_range(2):
            _finish(
                halves[half], out_ptr, out_desc, bias_ptr, residual_ptr, a_scale_ptr, weight_scale_ptr, M, N,
                first_row, first_column + half * HALF, out_stride_m, residual_stride_m, a_scale_stride_m,
                weight_scale_stride_n, ACTIVATION, SCALED, DESCRIPTORS, PARTS // 2,
            )  # fmt: skip
    else:
        rows = first_row + tl.arange(0, acc.shape[0])
        columns = first_column + tl.arange(0, acc.shape[1])
        if SCALED:
            acc *= tl.load(a_scale_ptr + rows * a_scale_stride_m, mask=rows < M, other=0.0)[:, None]
            acc *= tl.load(weight_scale_ptr + columns * weight_scale_stride_n, mask=columns < N, other=0.0)[None, :]
        if bias_ptr is not None:
            acc += tl.load(bias_ptr + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
        if ACTIVATION != "none":
            gate, up = pairs_of_columns(acc)
            acc = activate(gate, up, ACTIVATION)
            first_column = first_column // 2
            columns = first_column + tl.arange(0, acc.shape[1])
            N = N // 2
        is_real = (rows < M)[:, None] & (columns < N)[None, :]
        if residual_ptr is not None:
            residual_rows = residual_ptr + rows.to(tl.int64) * residual_stride_m
            acc += tl.load(residual_rows[:, None] + columns[None, :], mask=is_real, other=0.0).to(tl.float32)
        if DESCRIPTORS:
            out_desc.store([first_row, first_column], acc.to(out_desc.dtype))
        else:
            out_rows = out_ptr + rows.to(tl.int64) * out_stride_m
            tl.store(out_rows[:, None] + columns[None, :], acc.to(out_ptr.dtype.element_ty), mask=is_real)


# The number of rows changes from step to step of an engine, and must not mean another compilation.
@triton.jit(do_not_specialize=["M"])
def matmul_kernel(
    a_ptr, weight_ptr, out_ptr, a_desc, weight_desc, out_desc, bias_ptr, residual_ptr, a_scale_ptr, weight_scale_ptr,
    M, N, K, a_stride_m, weight_stride_n, out_stride_m, residual_stride_m,
    a_scale_stride_m, a_scale_stride_k, weight_scale_stride_n, weight_scale_stride_k,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    PARTS: tl.constexpr, FLATTENS: tl.constexpr, DESCRIPTORS: tl.constexpr, ACTIVATION: tl.constexpr,
    SCALED: tl.constexpr, BLOCKED: tl.constexpr, PROMOTES: tl.constexpr,
):  # fmt: skip
    """Grid: (programs,), any number of them.

    SCALED: rows and columns have scales. BLOCKED: steps along K have them instead. PROMOTES: the sum of a step leaves
    the tensor cores' accumulator for an fp32 one.
    """
    row_tiles = tl.cdiv(M, BLOCK_M)
    column_tiles = tl.cdiv(N, BLOCK_N)
    steps = tl.cdiv(K, BLOCK_K)
    for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0), flatten=FLATTENS):
        row_tile, column_tile = _place(tile, row_tiles, column_tiles, GROUP_M)
        first_row = row_tile * BLOCK_M
        first_column = column_tile * BLOCK_N
        rows = first_row + tl.arange(0, BLOCK_M)
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for step in range(steps):
            first = step * BLOCK_K
            if DESCRIPTORS:
                a = a_desc.load([first_row, first])  # [M, K]
                weight = weight_desc.load([first_column, first])  # [N, K]
            else:
                a = load.tile(a_ptr, first_row, M, first, K, a_stride_m, BLOCK_M, BLOCK_K)
                weight = load.tile(weight_ptr, first_column, N, first, K, weight_stride_n, BLOCK_N, BLOCK_K)
            if BLOCKED:
                a_scales, weight_scales = load.block_scales(
                    a_scale_ptr, weight_scale_ptr, rows, M, first_column, first, a_scale_stride_m, a_scale_stride_k,
                    weight_scale_stride_n, weight_scale_stride_k, BLOCK_N, ACTIVATION != "none",
                )  # fmt: skip
                scales = a_scales[:, None] * weight_scales[None, :]
                acc += tl.dot(a, tl.trans(weight), max_num_imprecise_acc=BLOCK_K) * scales  # [M, N]
            elif PROMOTES:
                acc += tl.dot(a, tl.trans(weight), max_num_imprecise_acc=BLOCK_K)
            else:
                acc = tl.dot(a, tl.trans(weight), acc, input_precision="ieee")
        _finish(
            acc, out_ptr, out_desc, bias_ptr, residual_ptr, a_scale_ptr, weight_scale_ptr, M, N, first_row,
            first_column, out_stride_m, residual_stride_m, a_scale_stride_m, weight_scale_stride_n,
            ACTIVATION, SCALED, DESCRIPTORS, PARTS,
        )  # fmt: skip


def constants(tile: DenseTile, activation: str, scaling: str, *, promotes: bool) -> dict[str, Any]:
    """The compile-time arguments of a launch."""
    return {
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "GROUP_M": tile.group_m,
        "PARTS": tile.parts,
        "FLATTENS": tile.flattens,
        "DESCRIPTORS": tile.descriptors,
        "ACTIVATION": activation,
        "SCALED": scaling in ("tensor", "token_channel"),
        "BLOCKED": scaling == "block",
        "PROMOTES": promotes,
    }


def out_part(tile: DenseTile, activation: str) -> tuple[int, int]:
    """Rows and columns of the output that are stored at a time."""
    return tile.block_m, tile.block_n // tile.parts // (1 if activation == "none" else 2)


def launch(operands: Operands, out: Tensor, tile: DenseTile, programs: int, *, promotes: bool) -> None:
    """Write the answer for checked operands into out [M, N or N / 2].

    promotes: float8 sums leave the tensor cores' accumulator at every step.
    """
    if out.numel() == 0:
        return
    a, weight = operands.a, operands.weight
    tiles = triton.cdiv(operands.m, tile.block_m) * triton.cdiv(operands.n, tile.block_n)
    a_desc = weight_desc = out_desc = None
    if tile.descriptors:
        a_desc = descriptor(a, tile.block_m, tile.block_k)
        weight_desc = descriptor(weight, tile.block_n, tile.block_k)
        out_desc = descriptor(out, *out_part(tile, operands.activation))
    residual = operands.residual
    with torch.cuda.device_of(a):
        matmul_kernel[(min(programs, tiles),)](
            a, weight, out, a_desc, weight_desc, out_desc, operands.bias, residual, operands.a_scale,
            operands.weight_scale, operands.m, operands.n, operands.k, a.stride(0), weight.stride(0), out.stride(0),
            0 if residual is None else residual.stride(0), *operands.scale_strides(),
            **constants(tile, operands.activation, operands.scaling, promotes=promotes),
            num_warps=tile.num_warps, num_stages=tile.num_stages, maxnreg=tile.registers, enable_fp_fusion=True,
        )  # fmt: skip
