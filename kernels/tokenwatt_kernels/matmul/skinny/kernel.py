"""Matmul of few rows: the weight is streamed once, in equal shares, and takes the place of the left operand.

Shapes
    out [M, N] = a [M, K] @ weight[N, K].T with M <= BLOCK_M; a tile is BLOCK_N columns of out and all of its rows
    P programs

The product is computed as weight @ a.T, because tensor cores take 64 rows and more of the left operand at a time but
as few as 8 columns of the right one: so the stream feeds whole instructions, and M pads to 16 alone.

The steps of all tiles along K form one line, of which each program takes an equal share: no wave of programs is ever
short, whatever N and K are. A program that walks a whole tile writes its answer; one that walks a part leaves a partial
sum, and `combine_kernel` adds the parts up in the order of K, so that two runs give the same bits. A program has at
most two parts: slot 0 for a tile that began before its share, slot 1 for one that ends after it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from tokenwatt_kernels.matmul import loads as load
from tokenwatt_kernels.matmul.epilogue import activate, pairs_of_rows
from tokenwatt_kernels.matmul.operands import Operands, descriptor
from tokenwatt_kernels.matmul.skinny.tiles import SkinnyTile

COMBINE_WARPS = 4


@triton.jit
def _finish(
    acc, out_ptr, bias_ptr, residual_ptr, a_scale_ptr, weight_scale_ptr, M, N, first_column, first_row,
    out_stride_m, residual_stride_m, a_scale_stride_m, weight_scale_stride_n,
    ACTIVATION: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """The epilogue of sums [C, R], transposed: C columns of the product from first_column, R rows from first_row."""
    columns = first_column + tl.arange(0, acc.shape[0])
    rows = first_row + tl.arange(0, acc.shape[1])
    if SCALED:
        acc *= tl.load(weight_scale_ptr + columns * weight_scale_stride_n, mask=columns < N, other=0.0)[:, None]
        acc *= tl.load(a_scale_ptr + rows * a_scale_stride_m, mask=rows < M, other=0.0)[None, :]
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + columns, mask=columns < N, other=0.0).to(tl.float32)[:, None]
    if ACTIVATION != "none":
        gate, up = pairs_of_rows(acc)
        acc = activate(gate, up, ACTIVATION)
        columns = first_column // 2 + tl.arange(0, acc.shape[0])
        N = N // 2
    is_real = (columns < N)[:, None] & (rows < M)[None, :]
    if residual_ptr is not None:
        residual_rows = residual_ptr + rows * residual_stride_m
        acc += tl.load(residual_rows[None, :] + columns[:, None], mask=is_real, other=0.0).to(tl.float32)
    out_rows = out_ptr + rows * out_stride_m
    tl.store(out_rows[None, :] + columns[:, None], acc.to(out_ptr.dtype.element_ty), mask=is_real)


# The number of rows changes from step to step of an engine, and must not mean another compilation.
@triton.jit(do_not_specialize=["M"])
def split_kernel(
    a_ptr, weight_ptr, out_ptr, partial_ptr, a_desc, weight_desc, bias_ptr, residual_ptr, a_scale_ptr,
    weight_scale_ptr, M, N, K, a_stride_m, weight_stride_n, out_stride_m, residual_stride_m,
    a_scale_stride_m, a_scale_stride_k, weight_scale_stride_n, weight_scale_stride_k,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, LEAST_STEPS: tl.constexpr,
    DESCRIPTORS: tl.constexpr, OVERLAPS: tl.constexpr, ACTIVATION: tl.constexpr, SCALED: tl.constexpr,
    BLOCKED: tl.constexpr, PROMOTES: tl.constexpr,
):  # fmt: skip
    """Grid: (P,). partial: [P, 2, BLOCK_N, BLOCK_M] fp32, before the epilogue.

    SCALED: rows and columns have scales. BLOCKED: steps along K have them instead. PROMOTES: the sum of a step leaves
    the tensor cores' accumulator for an fp32 one.
    """
    if OVERLAPS:
        gdc_launch_dependents()  # combining programs may come where there is room, and wait
    steps = tl.maximum(tl.cdiv(K, BLOCK_K), 1)
    total = tl.cdiv(N, BLOCK_N) * steps
    share = tl.maximum(tl.cdiv(total, tl.num_programs(0)), LEAST_STEPS)
    program = tl.program_id(0)
    place = program * share
    stop = tl.minimum(place + share, total)
    rows = tl.arange(0, BLOCK_M)
    while place < stop:
        tile = place // steps
        first_step = place % steps
        count = tl.minimum(steps - first_step, stop - place)
        first_column = tile * BLOCK_N
        acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        for step in range(first_step, first_step + count):
            first = step * BLOCK_K
            if DESCRIPTORS:
                weight = weight_desc.load([first_column, first])  # [N, K]
                a = a_desc.load([0, first])  # [M, K]
            else:
                weight = load.tile(weight_ptr, first_column, N, first, K, weight_stride_n, BLOCK_N, BLOCK_K)
                a = load.tile(a_ptr, 0, M, first, K, a_stride_m, BLOCK_M, BLOCK_K)
            if BLOCKED:
                a_scales, weight_scales = load.block_scales(
                    a_scale_ptr, weight_scale_ptr, rows, M, first_column, first, a_scale_stride_m, a_scale_stride_k,
                    weight_scale_stride_n, weight_scale_stride_k, BLOCK_N, ACTIVATION != "none",
                )  # fmt: skip
                scales = weight_scales[:, None] * a_scales[None, :]
                acc += tl.dot(weight, tl.trans(a), max_num_imprecise_acc=BLOCK_K) * scales  # [N, M]
            elif PROMOTES:
                acc += tl.dot(weight, tl.trans(a), max_num_imprecise_acc=BLOCK_K)
            else:
                acc = tl.dot(weight, tl.trans(a), acc, input_precision="ieee")
        if count == steps:
            _finish(
                acc, out_ptr, bias_ptr, residual_ptr, a_scale_ptr, weight_scale_ptr, M, N, first_column, 0,
                out_stride_m, residual_stride_m, a_scale_stride_m, weight_scale_stride_n, ACTIVATION, SCALED,
            )  # fmt: skip
        else:
            slot = program * 2 + (first_step == 0).to(tl.int32)
            part = slot.to(tl.int64) * BLOCK_N * BLOCK_M + tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + rows[None, :]
            tl.store(partial_ptr + part, acc)
        place += count


@triton.jit(do_not_specialize=["M"])
def combine_kernel(
    partial_ptr, out_ptr, bias_ptr, residual_ptr, a_scale_ptr, weight_scale_ptr, M, N, K,
    out_stride_m, residual_stride_m, a_scale_stride_m, weight_scale_stride_n,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, LEAST_STEPS: tl.constexpr,
    OVERLAPS: tl.constexpr, ACTIVATION: tl.constexpr, SCALED: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Grid: (P, BLOCK_N / BLOCK_C). Program p adds up the tile that begins in p's share and ends behind it, if any.

    BLOCK_C: columns of the product at a time.
    """
    steps = tl.maximum(tl.cdiv(K, BLOCK_K), 1)
    total = tl.cdiv(N, BLOCK_N) * steps
    share = tl.maximum(tl.cdiv(total, tl.num_programs(0)), LEAST_STEPS)
    program = tl.program_id(0)
    place = program * share
    stop = tl.minimum(place + share, total)
    if OVERLAPS:
        gdc_wait()  # all programs, so that this launch never ends before the other
    if place >= total:
        return
    tile = (stop - 1) // steps
    tile_begin = tile * steps
    if (tile_begin < place) | (tile_begin + steps <= stop):
        return

    parts = (tile_begin + steps - 1) // share - program + 1
    first = tl.program_id(1) * BLOCK_C
    inside = (first + tl.arange(0, BLOCK_C))[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    acc = tl.zeros([BLOCK_C, BLOCK_M], tl.float32)
    for part in range(parts):
        # The first part is the last of its program, the others are the first of theirs.
        slot = (program + part) * 2 + (part == 0)
        acc += tl.load(partial_ptr + tl.cast(slot, tl.int64) * BLOCK_N * BLOCK_M + inside)
    _finish(
        acc, out_ptr, bias_ptr, residual_ptr, a_scale_ptr, weight_scale_ptr, M, N, tile * BLOCK_N + first, 0,
        out_stride_m, residual_stride_m, a_scale_stride_m, weight_scale_stride_n, ACTIVATION, SCALED,
    )  # fmt: skip


def constants(tile: SkinnyTile, activation: str, scaling: str) -> dict[str, Any]:
    """The compile-time arguments that both launches share."""
    return {
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "LEAST_STEPS": tile.least_steps,
        "OVERLAPS": tile.overlaps,
        "ACTIVATION": activation,
        "SCALED": scaling in ("tensor", "token_channel"),
    }


def combined_columns(tile: SkinnyTile) -> int:
    """Columns of the product that a combining program holds: few, so that many programs share the work."""
    return min(tile.block_n, 32)


def launch(operands: Operands, out: Tensor, tile: SkinnyTile, programs: int, *, promotes: bool) -> None:
    """Write the answer for checked operands of at most tile.block_m rows into out [M, N or N / 2].

    promotes: float8 sums leave the tensor cores' accumulator at every step.
    """
    if out.numel() == 0:
        return
    a, weight, residual = operands.a, operands.weight, operands.residual
    steps = triton.cdiv(operands.n, tile.block_n) * max(1, triton.cdiv(operands.k, tile.block_k))
    programs = min(programs, steps)
    partial = torch.empty(programs, 2, tile.block_n, tile.block_m, dtype=torch.float32, device=a.device)
    a_desc = weight_desc = None
    if tile.descriptors:
        a_desc = descriptor(a, tile.block_m, tile.block_k)
        weight_desc = descriptor(weight, tile.block_n, tile.block_k)
    residual_stride = 0 if residual is None else residual.stride(0)
    a_stride_m, a_stride_k, weight_stride_n, weight_stride_k = operands.scale_strides()
    shared = constants(tile, operands.activation, operands.scaling)
    with torch.cuda.device_of(a):
        split_kernel[(programs,)](
            a, weight, out, partial, a_desc, weight_desc, operands.bias, residual, operands.a_scale,
            operands.weight_scale, operands.m, operands.n, operands.k, a.stride(0), weight.stride(0), out.stride(0),
            residual_stride, a_stride_m, a_stride_k, weight_stride_n, weight_stride_k,
            DESCRIPTORS=tile.descriptors, BLOCKED=operands.scaling == "block", PROMOTES=promotes, **shared,
            num_warps=tile.num_warps, num_stages=tile.num_stages, maxnreg=tile.registers, enable_fp_fusion=True,
        )  # fmt: skip
        combine_kernel[(programs, tile.block_n // combined_columns(tile))](
            partial, out, operands.bias, residual, operands.a_scale, operands.weight_scale,
            operands.m, operands.n, operands.k, out.stride(0), residual_stride, a_stride_m, weight_stride_n,
            BLOCK_C=combined_columns(tile), **shared,
            num_warps=COMBINE_WARPS, launch_pdl=tile.overlaps, enable_fp_fusion=True,
        )  # fmt: skip
