"""What the matmul kernels read at every step along K."""

from __future__ import annotations

import triton
import triton.language as tl

from tokenwatt_kernels.matmul.scaling import BLOCK

SCALE_BLOCK = tl.constexpr(BLOCK)


@triton.jit
def tile(pointer, first_row, rows, first_step, steps, stride, SIDE: tl.constexpr, BLOCK_K: tl.constexpr):
    """A tile [SIDE, BLOCK_K] of an operand with `rows` rows and `steps` columns; 0 beyond them."""
    tile_rows = tl.arange(0, SIDE)
    tile_steps = tl.arange(0, BLOCK_K)
    is_real = (first_row + tile_rows < rows)[:, None] & (tile_steps < steps - first_step)[None, :]
    corner = pointer + tl.cast(first_row, tl.int64) * stride + first_step
    return tl.load(corner + tile_rows[:, None] * stride + tile_steps[None, :], mask=is_real, other=0.0)


@triton.jit
def weight_scales(pointer, first_column, stride, COLUMNS: tl.constexpr, GATED: tl.constexpr):
    """Scales of 128 terms for COLUMNS columns of the product, all of one block or, gated, of one block of either kind.

    Written so that a thread loads one or two numbers, and not one for every column.
    """
    if GATED:
        gate = pointer + first_column // (2 * SCALE_BLOCK) * 2 * stride
        scales = tl.where(tl.arange(0, COLUMNS) % 2 == 0, tl.load(gate), tl.load(gate + stride))
    else:
        scales = tl.full([COLUMNS], tl.load(pointer + first_column // SCALE_BLOCK * stride), tl.float32)
    return scales


@triton.jit
def block_scales(
    a_scale_ptr, weight_scale_ptr, rows, M, first_column, first_step,
    a_scale_stride_m, a_scale_stride_k, weight_scale_stride_n, weight_scale_stride_k,
    COLUMNS: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """What the sums of a step within 128 terms are multiplied by: scales of the rows, and of COLUMNS columns."""
    block = first_step // SCALE_BLOCK
    a_scales = a_scale_ptr + rows * a_scale_stride_m + block * a_scale_stride_k
    block_ptr = weight_scale_ptr + block * weight_scale_stride_k
    of_columns = weight_scales(block_ptr, first_column, weight_scale_stride_n, COLUMNS, GATED)
    return tl.load(a_scales, mask=rows < M, other=0.0), of_columns
