"""A matmul cut along K into equal shares: the line of steps, the epilogue, and the sum of what shares left behind.

Shapes
    out [M, N] has tiles of BLOCK_N columns and BLOCK_M rows; sums of a tile are [BLOCK_N, BLOCK_M], transposed
    P programs; partial [P, 2, BLOCK_N, BLOCK_M] fp32, before the epilogue

The steps of all tiles along K form one line, of which each program takes an equal share: no wave of programs is ever
short, whatever the sizes are. A program that walks a whole tile writes its answer; one that walks a part leaves a
partial sum. Parts are added up in the order of K, so that two runs give the same bits: by `combine_kernel`, or where a
tile `joins`, by the last program that leaves one of it. A program has at most two parts: slot 0 for a tile that began
before its share, slot 1 for one that ends after it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwatt_kernels import arrivals as arrivals
from tokenwatt_kernels import following as following
from tokenwatt_kernels.matmul.epilogue import activate, pairs_of_rows
from tokenwatt_kernels.matmul.split_tile import SplitTile

COMBINE_WARPS = 4


@triton.jit
def line(M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, LEAST_STEPS: tl.constexpr):
    """The steps of a tile, the steps of all tiles, and how many of them a program takes."""
    steps = tl.maximum(tl.cdiv(K, BLOCK_K), 1)
    total = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N) * steps
    share = tl.maximum(tl.cdiv(total, tl.num_programs(0)), LEAST_STEPS)
    return steps, total, share


@triton.jit
def corner(tile, M, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """First row and first column of a tile. Tiles of the same columns follow each other, and share the weight in L2."""
    row_tiles = tl.cdiv(M, BLOCK_M)
    return tile % row_tiles * BLOCK_M, tile // row_tiles * BLOCK_N


@triton.jit
def leave(acc, partial_ptr, program, first_step):
    """Store the sums of a part of a tile."""
    slot = program * 2 + (first_step == 0).to(tl.int32)
    columns, rows = tl.arange(0, acc.shape[0]), tl.arange(0, acc.shape[1])
    part = slot.to(tl.int64) * acc.shape[0] * acc.shape[1] + columns[:, None] * acc.shape[1] + rows[None, :]
    tl.store(partial_ptr + part, acc)


@triton.jit
def add_up(partial_ptr, program, parts, inside, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The sum of the parts of a tile that begins in a program's share, at the offsets `inside` of a part."""
    acc = tl.zeros(inside.shape, tl.float32)
    for part in range(parts):
        # The first part is the last of its program, the others are the first of theirs.
        slot = (program + part) * 2 + (part == 0)
        # Not from L1, which does not hear of what other multiprocessors store.
        acc += tl.load(partial_ptr + tl.cast(slot, tl.int64) * BLOCK_N * BLOCK_M + inside, cache_modifier=".cg")
    return acc


@triton.jit
def settle(
    acc, place, count, steps, share, out_ptr, partial_ptr, arrivals_ptr, bias_ptr, residual_ptr, a_scale_ptr,
    weight_scale_ptr, M, N, first_column, first_row, out_stride_m, residual_stride_m, a_scale_stride_m,
    weight_scale_stride_n, JOINS: tl.constexpr, ACTIVATION: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """What becomes of the sums of `count` of the steps of a tile, from one place of the line on: an answer or a part.

    JOINS: the program that leaves the last part of a tile adds all of them up, and that is the answer.
    """
    BLOCK_N: tl.constexpr = acc.shape[0]
    BLOCK_M: tl.constexpr = acc.shape[1]
    is_answer = count == steps
    if count != steps:
        leave(acc, partial_ptr, tl.program_id(0), place % steps)
        if JOINS:
            tile = place // steps
            first = tile * steps // share
            parts = (tile * steps + steps - 1) // share - first + 1
            is_answer = arrivals.is_last(arrivals_ptr, tile, parts)
            if is_answer:
                inside = tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
                acc = add_up(partial_ptr, first, parts, inside, BLOCK_M, BLOCK_N)
    if is_answer:
        finish(
            acc, out_ptr, bias_ptr, residual_ptr, a_scale_ptr, weight_scale_ptr, M, N, first_column, first_row,
            out_stride_m, residual_stride_m, a_scale_stride_m, weight_scale_stride_n, ACTIVATION, SCALED,
        )  # fmt: skip


@triton.jit
def finish(
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
        residual_rows = residual_ptr + rows.to(tl.int64) * residual_stride_m
        acc += tl.load(residual_rows[None, :] + columns[:, None], mask=is_real, other=0.0).to(tl.float32)
    out_rows = out_ptr + rows.to(tl.int64) * out_stride_m
    tl.store(out_rows[None, :] + columns[:, None], acc.to(out_ptr.dtype.element_ty), mask=is_real)


@triton.jit(do_not_specialize=["M"])
def combine_kernel(
    partial_ptr, out_ptr, bias_ptr, residual_ptr, a_scale_ptr, weight_scale_ptr, M, N, K,
    out_stride_m, residual_stride_m, a_scale_stride_m, weight_scale_stride_n,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, LEAST_STEPS: tl.constexpr,
    FOLLOWS: tl.constexpr, ACTIVATION: tl.constexpr, SCALED: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Grid: (P, BLOCK_N / BLOCK_C). Program p adds up the tile that begins in p's share and ends behind it, if any.

    BLOCK_C: columns of the product at a time.
    """
    following.begin(FOLLOWS)
    steps, total, share = line(M, N, K, BLOCK_M, BLOCK_N, BLOCK_K, LEAST_STEPS)
    program = tl.program_id(0)
    place = program * share
    stop = tl.minimum(place + share, total)
    if place >= total:
        return
    tile = (stop - 1) // steps
    tile_begin = tile * steps
    if (tile_begin < place) | (tile_begin + steps <= stop):
        return

    parts = (tile_begin + steps - 1) // share - program + 1
    first_row, first_column = corner(tile, M, BLOCK_M, BLOCK_N)
    first = tl.program_id(1) * BLOCK_C
    inside = (first + tl.arange(0, BLOCK_C))[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    finish(
        add_up(partial_ptr, program, parts, inside, BLOCK_M, BLOCK_N), out_ptr, bias_ptr, residual_ptr, a_scale_ptr,
        weight_scale_ptr, M, N, first_column + first, first_row, out_stride_m, residual_stride_m, a_scale_stride_m,
        weight_scale_stride_n, ACTIVATION, SCALED,
    )  # fmt: skip


def constants(tile: SplitTile, activation: str) -> dict[str, Any]:
    """The compile-time arguments that both launches of a matmul share."""
    return {
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "LEAST_STEPS": tile.least_steps,
        "ACTIVATION": activation,
    }


def combined_columns(tile: SplitTile) -> int:
    """Columns of the product that a combining program holds: few, so that many programs share the work."""
    return min(tile.block_n, 32)


def room(m: int, n: int, k: int, tile: SplitTile, programs: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Memory for the parts of as many programs as have something to do: [P, 2, BLOCK_N, BLOCK_M] fp32.

    And where the tile joins, counters of the parts of each tile that have been left.
    """
    tiles = triton.cdiv(m, tile.block_m) * triton.cdiv(n, tile.block_n)
    programs = min(programs, tiles * max(1, triton.cdiv(k, tile.block_k)))
    partial = torch.empty(programs, 2, tile.block_n, tile.block_m, dtype=torch.float32, device=device)
    return partial, arrivals.counters(tiles, device) if tile.joins else None


def combine(
    partial: Tensor,
    out: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    a_scale: Tensor | None,
    weight_scale: Tensor | None,
    sizes: tuple[int, int, int],
    scale_strides: tuple[int, int],
    tile: SplitTile,
    activation: str,
    *,
    is_scaled: bool,
) -> None:
    """Launch what adds up the parts, unless the tile joins.

    sizes: M, N and K. scale_strides: along M of a_scale, along N of weight_scale.
    """
    if tile.joins:
        return
    columns = combined_columns(tile)
    combine_kernel[(partial.shape[0], tile.block_n // columns)](
        partial, out, bias, residual, a_scale, weight_scale, *sizes, out.stride(0),
        0 if residual is None else residual.stride(0), *scale_strides,
        SCALED=is_scaled, BLOCK_C=columns, **following.options(out.device), **constants(tile, activation),
        num_warps=COMBINE_WARPS, enable_fp_fusion=True,
    )  # fmt: skip
