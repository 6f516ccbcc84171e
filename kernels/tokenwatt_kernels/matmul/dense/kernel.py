"""Dense matmul with a row-major weight.

Shapes
    out [M, N] = a [M, K] @ weight[N, K].T; one program owns BLOCK_M x BLOCK_N of out and walks K in steps of BLOCK_K

Programs are numbered in groups of GROUP_M row tiles, so that neighbours in time share weight tiles in L2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwatt_kernels.matmul.dense.tiles import MatmulTile


# The number of rows changes from step to step of an engine, and must not mean another compilation.
@triton.jit(do_not_specialize=["M"])
def matmul_kernel(
    a_ptr, weight_ptr, out_ptr, M, N, K, a_stride_m, weight_stride_n, out_stride_m,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """Grid: (row tiles * column tiles,)."""
    program = tl.program_id(0)
    row_tiles = tl.cdiv(M, BLOCK_M)
    column_tiles = tl.cdiv(N, BLOCK_N)
    group = program // (GROUP_M * column_tiles)
    rows_in_group = tl.minimum(row_tiles - group * GROUP_M, GROUP_M)
    within_group = program % (GROUP_M * column_tiles)
    first_row = (group * GROUP_M + within_group % rows_in_group) * BLOCK_M
    first_column = within_group // rows_in_group * BLOCK_N

    tile_rows = tl.arange(0, BLOCK_M)
    tile_columns = tl.arange(0, BLOCK_N)
    steps = tl.arange(0, BLOCK_K)
    row_is_real = first_row + tile_rows < M
    column_is_real = first_column + tile_columns < N
    a_ptrs = a_ptr + first_row.to(tl.int64) * a_stride_m + tile_rows[:, None] * a_stride_m + steps[None, :]
    weight_ptrs = (
        weight_ptr + first_column.to(tl.int64) * weight_stride_n
        + tile_columns[:, None] * weight_stride_n + steps[None, :]
    )  # fmt: skip

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(0, K, BLOCK_K):
        step_is_real = steps < K - first
        a = tl.load(a_ptrs, mask=row_is_real[:, None] & step_is_real[None, :], other=0.0)  # [M, K]
        weight = tl.load(weight_ptrs, mask=column_is_real[:, None] & step_is_real[None, :], other=0.0)  # [N, K]
        acc = tl.dot(a, tl.trans(weight), acc, input_precision="ieee")  # [M, N]
        a_ptrs += BLOCK_K
        weight_ptrs += BLOCK_K

    out_ptrs = (
        out_ptr + first_row.to(tl.int64) * out_stride_m + first_column
        + tile_rows[:, None] * out_stride_m + tile_columns[None, :]
    )  # fmt: skip
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=row_is_real[:, None] & column_is_real[None, :])


def launch(a: Tensor, weight: Tensor, out: Tensor, tile: MatmulTile) -> None:
    """Write the product of checked arguments into out [M, N]."""
    (m, k), n = a.shape, weight.shape[0]
    if m == 0 or n == 0:
        return
    grid = (triton.cdiv(m, tile.block_m) * triton.cdiv(n, tile.block_n),)
    with torch.cuda.device_of(a):
        matmul_kernel[grid](
            a, weight, out, m, n, k, a.stride(0), weight.stride(0), out.stride(0),
            BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, BLOCK_K=tile.block_k, GROUP_M=tile.group_m,
            num_warps=tile.num_warps, num_stages=tile.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
