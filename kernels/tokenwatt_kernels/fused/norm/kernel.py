"""RMS normalisation of rows that a program holds in registers: each element is loaded once and stored once.

Shapes
    T tokens, H the width of a row (WIDTH; BLOCK_WIDTH with padding), R rows of a program (BLOCK_ROWS)
    x, residual, out [T, HEADS, H]: a row is one head of a token; HEADS is 1 where a token is one row

A residual is summed in fp32, rounded to its dtype and stored, and what was stored is normed. Statistics, weight and
scale are applied in fp32, and the answer is rounded once. Without a weight nothing is normed: rows become float8 as
they are.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwatt_kernels import following as following
from tokenwatt_kernels.fused.norm.problems import Scales
from tokenwatt_kernels.fused.norm.tiles import NormTile, block_width, make_key, most_registers
from tokenwatt_kernels.number_formats import float8

FLOAT8_LARGEST = tl.constexpr(float8.LARGEST)
LEAST_LARGEST = tl.constexpr(float8.LEAST_LARGEST)
SCALE_WIDTH = tl.constexpr(float8.BLOCK)


@triton.jit
def _scale_of(largest):
    """float8.scale_of, of a tile."""
    return tl.where(largest < LEAST_LARGEST, 1.0, largest / FLOAT8_LARGEST)


# The number of rows changes from step to step of an engine, and must not mean another compilation.
@triton.jit(do_not_specialize=["rows"])
def norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, scale_ptr, rows, eps,
    x_stride_t, x_stride_h, residual_stride_t, residual_stride_h, out_stride_t, out_stride_h, scale_stride_t,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, UNIT_OFFSET: tl.constexpr, SCALES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_WIDTH: tl.constexpr, FOLLOWS: tl.constexpr,
):  # fmt: skip
    """Grid: (row tiles,). scale: [1], [T] or [T, H / 128] fp32, as SCALES says."""
    following.begin(FOLLOWS)
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.arange(0, BLOCK_WIDTH)
    is_row = row < rows
    is_real = is_row[:, None] & (columns < WIDTH)[None, :]
    token, head = (row // HEADS).to(tl.int64), row % HEADS

    x_ptrs = x_ptr + (token * x_stride_t + head * x_stride_h)[:, None] + columns[None, :]
    x = tl.load(x_ptrs, mask=is_real, other=0.0).to(tl.float32)  # [R, H]
    if weight_ptr is not None:  # asked for here, so that it comes while the rows do
        weight = tl.load(weight_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
        if UNIT_OFFSET:
            weight += 1.0
    if residual_ptr is not None:
        residual_ptrs = (
            residual_ptr + (token * residual_stride_t + head * residual_stride_h)[:, None] + columns[None, :]
        )
        x += tl.load(residual_ptrs, mask=is_real, other=0.0).to(tl.float32)
        stored = x.to(residual_ptr.dtype.element_ty)
        tl.store(residual_ptrs, stored, mask=is_real)
        x = stored.to(tl.float32)
    y = x
    if weight_ptr is not None:
        inverse = tl.rsqrt(tl.sum(x * x, 1) / WIDTH + eps)
        y = x * inverse[:, None] * weight[None, :]

    if SCALES == "tensor":
        y = y / tl.load(scale_ptr)
    elif SCALES == "token":
        scale = _scale_of(tl.max(tl.abs(y), 1))
        tl.store(scale_ptr + token * scale_stride_t, scale, mask=is_row)
        y = y * (1.0 / scale)[:, None]
    elif SCALES == "block":
        BLOCKS: tl.constexpr = BLOCK_WIDTH // SCALE_WIDTH
        y = tl.reshape(y, [BLOCK_ROWS, BLOCKS, SCALE_WIDTH])
        scale = _scale_of(tl.max(tl.abs(y), 2))  # [R, BLOCKS]
        block = tl.arange(0, BLOCKS)
        scale_ptrs = scale_ptr + (token * scale_stride_t)[:, None] + block[None, :]
        tl.store(scale_ptrs, scale, mask=is_row[:, None] & (block < WIDTH // SCALE_WIDTH)[None, :])
        y = tl.reshape(y * (1.0 / scale)[:, :, None], [BLOCK_ROWS, BLOCK_WIDTH])
    out_ptrs = out_ptr + (token * out_stride_t + head * out_stride_h)[:, None] + columns[None, :]
    tl.store(out_ptrs, y.to(out_ptr.dtype.element_ty), mask=is_real)


def launch(
    x: Tensor,
    weight: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    scale: Tensor | None,
    tile: NormTile,
    *,
    eps: float,
    unit_offset: bool,
    scales: Scales,
) -> None:
    """Write the norm of checked arguments into out, the sum into residual, and scales per token or block into scale."""
    heads = x.shape[1] if x.dim() == 3 else 1
    rows, width = x.shape[0] * heads, x.shape[-1]
    if rows == 0:
        return
    with torch.cuda.device_of(x):
        norm_kernel[(triton.cdiv(rows, tile.rows),)](
            x, residual, weight, out, scale, rows, eps, *_strides(x), *_strides(residual), *_strides(out),
            0 if scale is None else scale.stride(0),
            HEADS=heads, WIDTH=width, UNIT_OFFSET=unit_offset, SCALES=scales,
            BLOCK_ROWS=tile.rows, BLOCK_WIDTH=block_width(width), **following.options(x.device),
            num_warps=tile.num_warps, maxnreg=most_registers(tile, make_key(width, x.element_size())),
            enable_fp_fusion=True,
        )  # fmt: skip


def _strides(rows: Tensor | None) -> tuple[int, int]:
    """From token to token and from head to head."""
    if rows is None:
        return 0, 0
    return rows.stride(0), rows.stride(1) if rows.dim() == 3 else 0
