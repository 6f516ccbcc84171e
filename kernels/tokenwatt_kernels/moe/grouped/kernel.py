"""Grouped matmul: rows sorted by expert, each multiplied by the weight of its expert.

Shapes
    R rows, E experts, weight [E, N, K]; one tile of outputs is BLOCK_M rows of one expert by BLOCK_N columns

As many programs as the GPU holds at a time walk one line of tiles: expert after expert, in groups of GROUP_M row tiles,
in which tiles of one column follow each other and find the same weight in L2. The line is never written down. Every
program reads the E + 1 offsets once, keeps how many row tiles end with each expert, and finds the expert of a tile with
one maximum over E numbers: less than the first load of a tile takes, and no launch more. So the grid is that of the
GPU, nothing is read back, and an expert without rows costs nothing.

Many rows use the weight as the second operand, and the tensor cores are the limit. For few rows the weight comes first
(SWAPPED): the instruction's long side then lies along N, where there is work, and its short one of 16 along the rows.

To combine, each row's answer is weighted in fp32 and stored in its token's slot, [T, k, N], and `combine_kernel` adds
the slots in order. Adding to [T, N] at once would need float atomics, whose sum depends on which program comes first.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwatt_kernels.matmul import loads as load
from tokenwatt_kernels.matmul.epilogue import activate, pairs_of_columns
from tokenwatt_kernels.matmul.operands import descriptor
from tokenwatt_kernels.matmul.packed import unpack as unpack
from tokenwatt_kernels.matmul.packed.formats import WORDS
from tokenwatt_kernels.matmul.packed.weights import PackedWeight
from tokenwatt_kernels.moe.grouped.product import Product
from tokenwatt_kernels.moe.grouped.tiles import GroupedTile

PACKED = tl.constexpr(1024)  # more than experts: a number below it and a count of row tiles share an int32
WORDS_TL = tl.constexpr(WORDS)
COMBINE_COLUMNS = 1024
COMBINE_WARPS = 4


@triton.jit
def _row_tile_ends(offsets_ptr, EXPERTS: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr):
    """Row tiles of each expert and those before it, [E]."""
    expert = tl.arange(0, BLOCK_E)
    is_expert = expert < EXPERTS
    start = tl.load(offsets_ptr + expert, mask=is_expert, other=0)
    end = tl.load(offsets_ptr + 1 + expert, mask=is_expert, other=0)
    return tl.cumsum(tl.cdiv(end - start, BLOCK_M), 0)


@triton.jit
def _find(row_tile, ends, BLOCK_E: tl.constexpr):
    """The expert of a row tile of the line, and the row tile where that expert begins."""
    expert = tl.arange(0, BLOCK_E)
    # Ends never fall, so the largest of those at or before the tile belongs to the last expert that is through.
    last = tl.max(tl.where(ends <= row_tile, ends * PACKED + expert + 1, 0), 0)
    return last % PACKED, last // PACKED


@triton.jit
def _load(ptrs, steps, left, WHOLE_STEPS: tl.constexpr):
    """A tile with `left` columns, which are all of them where steps are whole."""
    return tl.load(ptrs) if WHOLE_STEPS else tl.load(ptrs, mask=(steps < left)[None, :], other=0.0)


@triton.jit
def _halves_of_columns(tile):
    """A tile [R, 2 C] as its first and its last columns, [R, C] each."""
    return tl.split(tl.permute(tl.reshape(tile, [tile.shape[0], 2, tile.shape[1] // 2]), (0, 2, 1)))


@triton.jit
def _finish(
    acc, first_column, expert, out_row, is_row, row_scales, weights, bias_ptr, weight_scale_ptr, out_ptr,
    N, out_stride_m, bias_stride_e, weight_scale_stride_e, weight_scale_stride_n,
    ACTIVATION: tl.constexpr, SCALES: tl.constexpr,
):  # fmt: skip
    """Store sums [M, C] of the columns from first_column: scaled, biased, activated and weighted."""
    columns: tl.constexpr = acc.shape[1]
    column = first_column + tl.arange(0, columns)
    safe_column = tl.minimum(column, N - 1)
    if SCALES == "channel":
        scale_ptrs = weight_scale_ptr + expert.to(tl.int64) * weight_scale_stride_e
        column_scales = tl.load(scale_ptrs + safe_column * weight_scale_stride_n)
        acc *= row_scales[:, None] * column_scales[None, :]
        if bias_ptr is not None:
            acc += tl.load(bias_ptr + expert.to(tl.int64) * bias_stride_e + safe_column).to(tl.float32)[None, :]
    if ACTIVATION != "none":
        gate, up = pairs_of_columns(acc)
        acc = activate(gate, up, ACTIVATION)
        column = first_column // 2 + tl.arange(0, columns // 2)
        N = N // 2
    if weights is not None:
        acc *= weights[:, None]
    out_ptrs = out_ptr + out_row.to(tl.int64)[:, None] * out_stride_m + column[None, :]
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=is_row[:, None] & (column < N)[None, :])


@triton.jit
def grouped_kernel(
    a_ptr, weight_ptr, weight_desc, words_scale_ptr, words_scale_desc, offsets_ptr, order_ptr, token_weights_ptr,
    bias_ptr, a_scale_ptr, weight_scale_ptr, out_ptr, N, K, a_stride_m, weight_stride_e, weight_stride_n,
    out_stride_m, bias_stride_e, a_scale_stride_m, weight_scale_stride_e, weight_scale_stride_n,
    EXPERTS: tl.constexpr, TOP_K: tl.constexpr, GATHERS: tl.constexpr, COMBINES: tl.constexpr,
    ACTIVATION: tl.constexpr, SCALES: tl.constexpr, WHOLE_STEPS: tl.constexpr, DESCRIPTORS: tl.constexpr,
    SWAPPED: tl.constexpr, PROMOTES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, BLOCK_E: tl.constexpr, MXFP4: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """Grid: (programs,), any number of them.

    PROMOTES: the sum of a step leaves the tensor cores' accumulator for an fp32 one.
    MXFP4: the weight is packed, words [E, chunks, N, 32] with words_scale [E, chunks, N]; PTX: and a GPU unpacks it.
    """
    GATED: tl.constexpr = ACTIVATION != "none"
    ends = _row_tile_ends(offsets_ptr, EXPERTS, BLOCK_E, BLOCK_M)
    column_tiles = tl.cdiv(N, BLOCK_N)
    steps = tl.arange(0, BLOCK_K)
    for tile in range(tl.program_id(0), tl.max(ends, 0) * column_tiles, tl.num_programs(0)):
        expert, first_row_tile = _find(tile // column_tiles, ends, BLOCK_E)
        row_begin = tl.load(offsets_ptr + expert)
        row_end = tl.load(offsets_ptr + expert + 1)
        within = tile - first_row_tile * column_tiles
        group = within // (GROUP_M * column_tiles)
        rows_in_group = tl.minimum(tl.cdiv(row_end - row_begin, BLOCK_M) - group * GROUP_M, GROUP_M)
        within = within % (GROUP_M * column_tiles)
        row = row_begin + (group * GROUP_M + within % rows_in_group) * BLOCK_M + tl.arange(0, BLOCK_M)
        first_column = within // rows_in_group * BLOCK_N
        column = first_column + tl.arange(0, BLOCK_N)
        # Rows and columns behind the last are computed as copies of it and not stored: loads need no mask for them.
        is_row = row < row_end
        row = tl.minimum(row, row_end - 1)
        safe_column = tl.minimum(column, N - 1)
        acc = tl.zeros([BLOCK_N, BLOCK_M] if SWAPPED else [BLOCK_M, BLOCK_N], tl.float32)
        if bias_ptr is not None and SCALES != "channel":
            # Sums begin with it, so that no register holds it beside them.
            bias = tl.load(bias_ptr + expert.to(tl.int64) * bias_stride_e + safe_column).to(tl.float32)
            if MXFP4:
                bias *= 1.0 / unpack.SUM_FACTOR
            acc += bias[:, None] if SWAPPED else bias[None, :]
        slot = row
        if GATHERS or COMBINES:
            slot = tl.load(order_ptr + row)
        a_row = row
        if GATHERS:
            a_row = slot // TOP_K
        a_ptrs = a_ptr + a_row.to(tl.int64)[:, None] * a_stride_m + steps[None, :]
        weight_row = expert * N + first_column  # of the descriptor
        chunk = expert * tl.cdiv(K, BLOCK_K)
        weight_steps = tl.arange(0, WORDS_TL) if MXFP4 else steps
        weight_ptrs = (
            weight_ptr + expert.to(tl.int64) * weight_stride_e
            + safe_column.to(tl.int64)[:, None] * weight_stride_n + weight_steps[None, :]
        )  # fmt: skip
        scale_ptrs = a_scale_ptr
        weight_scale_ptrs = weight_scale_ptr
        if SCALES == "block":
            scale_ptrs = a_scale_ptr + a_row.to(tl.int64) * a_scale_stride_m
            weight_scale_ptrs = weight_scale_ptr + expert.to(tl.int64) * weight_scale_stride_e

        for first in range(0, K, BLOCK_K):
            a = _load(a_ptrs, steps, K - first, WHOLE_STEPS)  # [M, K]
            if MXFP4:
                # Behind the last column lie words of the next chunk, whose sums nobody stores.
                if DESCRIPTORS:
                    words = weight_desc.load([chunk * N + first_column, 0])
                    words_scale = tl.reshape(words_scale_desc.load([chunk, first_column]), [BLOCK_N])
                else:
                    words = tl.load(weight_ptrs)
                    words_scale = tl.load(words_scale_ptr + tl.cast(chunk, tl.int64) * N + safe_column)
                weight = unpack.numbers(words, words_scale, "mxfp4", a.dtype, PTX)
                chunk += 1
            elif DESCRIPTORS:
                weight = weight_desc.load([weight_row, first])  # [N, K]
            else:
                weight = _load(weight_ptrs, steps, K - first, WHOLE_STEPS)
            left, right = (weight, tl.trans(a)) if SWAPPED else (a, tl.trans(weight))
            if SCALES == "block":
                # The tensor cores of sm_89 and sm_90 keep few bits of a float8 sum: each step joins an fp32 one.
                row_scales = tl.load(scale_ptrs)
                column_scales = load.weight_scales(
                    weight_scale_ptrs, first_column, weight_scale_stride_n, BLOCK_N, GATED
                )
                product = tl.dot(left, right)
                if SWAPPED:
                    acc += product * (column_scales[:, None] * row_scales[None, :])
                else:
                    acc += product * (row_scales[:, None] * column_scales[None, :])
                scale_ptrs += 1
                weight_scale_ptrs += 1
            elif PROMOTES:
                acc += tl.dot(left, right, max_num_imprecise_acc=BLOCK_K)
            else:
                acc = tl.dot(left, right, acc, input_precision="ieee")
            a_ptrs += BLOCK_K
            weight_ptrs += N * WORDS_TL if MXFP4 else BLOCK_K

        if MXFP4:
            acc *= unpack.SUM_FACTOR
        if SWAPPED:
            acc = tl.trans(acc)  # [M, N]
        out_row = slot if COMBINES else row
        row_scales = None
        if SCALES == "channel":
            row_scales = tl.load(a_scale_ptr + a_row.to(tl.int64) * a_scale_stride_m)
        weights = tl.load(token_weights_ptr + slot) if COMBINES else None
        # One quarter after the other: factors and biases of 256 columns would not fit beside their sums.
        if BLOCK_N >= 256:
            left, right = _halves_of_columns(acc)
            for half in tl.static_range(2):
                first, last = _halves_of_columns(left if half == 0 else right)
                for quarter in tl.static_range(2):
                    _finish(
                        first if quarter == 0 else last, first_column + (2 * half + quarter) * (BLOCK_N // 4), expert,
                        out_row, is_row, row_scales, weights, bias_ptr, weight_scale_ptr, out_ptr, N, out_stride_m,
                        bias_stride_e, weight_scale_stride_e, weight_scale_stride_n, ACTIVATION, SCALES,
                    )  # fmt: skip
        else:
            _finish(
                acc, first_column, expert, out_row, is_row, row_scales, weights, bias_ptr, weight_scale_ptr, out_ptr,
                N, out_stride_m, bias_stride_e, weight_scale_stride_e, weight_scale_stride_n, ACTIVATION, SCALES,
            )  # fmt: skip


@triton.jit
def combine_kernel(
    parts_ptr, residual_ptr, out_ptr, N, residual_stride_t, out_stride_t, TOP_K: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """Grid: (T, column tiles). The slots of a token, parts [T, k, N], added in their order; the residual comes last."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = column < N
    total = tl.zeros([BLOCK_N], tl.float32)
    for slot in tl.static_range(TOP_K):
        total += tl.load(parts_ptr + (token * TOP_K + slot) * N + column, mask=is_column, other=0.0).to(tl.float32)
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + token * residual_stride_t + column, mask=is_column, other=0.0)
        total += residual.to(tl.float32)
    tl.store(out_ptr + token * out_stride_t + column, total.to(out_ptr.dtype.element_ty), mask=is_column)


def options_of(product: Product, tile: GroupedTile, *, promotes: bool) -> dict[str, Any]:
    """The compile-time arguments of grouped_kernel."""
    experts, _, terms = product.sizes
    return {
        "EXPERTS": experts,
        "TOP_K": product.top_k,
        "GATHERS": product.gathers,
        "COMBINES": product.combines,
        "ACTIVATION": product.activation,
        "SCALES": product.scales,
        "WHOLE_STEPS": terms % tile.block_k == 0,
        "DESCRIPTORS": tile.descriptors,
        "SWAPPED": tile.swapped,
        "PROMOTES": promotes,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "GROUP_M": tile.group_m,
        "BLOCK_E": triton.next_power_of_2(experts),
        "MXFP4": product.number_format == "mxfp4",
        "PTX": not product.a.is_cpu,
    }


def launch(
    product: Product, residual: Tensor | None, out: Tensor, tile: GroupedTile, programs: int, *, promotes: bool
) -> None:
    """Write the rows of a checked product into out [R, columns], or the sums of a token's rows into out [T, N].

    promotes: float8 sums leave the tensor cores' accumulator at every step.
    """
    if product.rows == 0 or product.out_columns == 0:
        return
    token_weights = product.token_weights
    with torch.cuda.device_of(out):
        if token_weights is None:
            _launch_rows(product, out, tile, programs, promotes=promotes)
            return
        parts = out.new_empty(product.rows, out.shape[1])
        _launch_rows(product, parts, tile, programs, promotes=promotes)
        tokens, top_k = token_weights.shape
        combine_kernel[(tokens, triton.cdiv(out.shape[1], COMBINE_COLUMNS))](
            parts, residual, out, out.shape[1], 0 if residual is None else residual.stride(0), out.stride(0),
            TOP_K=top_k, BLOCK_N=COMBINE_COLUMNS, num_warps=COMBINE_WARPS,
        )  # fmt: skip


def _launch_rows(product: Product, out: Tensor, tile: GroupedTile, programs: int, *, promotes: bool) -> None:
    a, weight, bias = product.a, product.weight, product.bias
    _, columns, terms = product.sizes
    weight_desc = words_scale = words_scale_desc = None
    if isinstance(weight, PackedWeight):
        if tile.descriptors:
            weight_desc = descriptor(weight.words.flatten(0, 2), tile.block_n, WORDS)
            words_scale_desc = descriptor(weight.scale_rows, 1, tile.block_n)
        weight, words_scale = weight.words, weight.scales
    elif tile.descriptors:
        weight_desc = descriptor(weight.flatten(0, 1), tile.block_n, tile.block_k)
    grouped_kernel[(programs,)](
        a, weight, weight_desc, words_scale, words_scale_desc, product.offsets, product.order, product.token_weights,
        bias, product.a_scale, product.weight_scale, out, columns, terms, a.stride(0), weight.stride(0),
        weight.stride(-2), out.stride(0), 0 if bias is None else bias.stride(0), *_scale_strides(product),
        **options_of(product, tile, promotes=promotes), num_warps=tile.num_warps, num_stages=tile.num_stages,
        maxnreg=tile.registers, enable_fp_fusion=True,
    )  # fmt: skip


def _scale_strides(product: Product) -> tuple[int, int, int]:
    """From one row of a, expert and row of the weight to the next in their factors; 0 where they share one."""
    if product.a_scale is None or product.weight_scale is None:
        return 0, 0, 0
    a_stride = product.a_scale.stride(0) if product.a_scale.numel() > 1 else 0
    weight_stride = product.weight_scale.stride(1) if product.weight_scale.dim() > 1 else 0
    return a_stride, product.weight_scale.stride(0), weight_stride
