"""Causal prefill attention with an online softmax.

Shapes
    T tokens of all sequences, Hq query heads, Hkv key/value heads, D head dimension, G = Hq / Hkv
    M query rows of one program (BLOCK_M), N keys of one step (BLOCK_N)

One program owns M rows of one query head of one sequence. Tiles left of the diagonal need no mask, tiles on it do, and
tiles right of it are never visited. Scores live in the log2 domain, and the sum of weights divides once, at the end.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwatt_kernels.attention.prefill.tiles import PrefillTile


@triton.jit
def _attend(
    acc, row_sum, row_max, q, k_ptr, v_ptr, rows, start, end, length, scale_log2, k_stride_t, v_stride_t,
    MASKED: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Fold keys start..end-1 into the running softmax of `rows`; k_ptr and v_ptr point at key `start`."""
    dims = tl.arange(0, HEAD_DIM)
    steps = tl.arange(0, BLOCK_N)
    for first in range(start, end, BLOCK_N):
        columns = first + steps
        k_ptrs = k_ptr + steps[:, None] * k_stride_t + dims[None, :]
        v_ptrs = v_ptr + steps[:, None] * v_stride_t + dims[None, :]
        k = tl.load(k_ptrs, mask=columns[:, None] < length, other=0.0) if MASKED else tl.load(k_ptrs)  # [N, D]
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # [M, N]
        if MASKED:
            scores = tl.where(columns[None, :] <= rows[:, None], scores, float("-inf"))
        # Finite from the first step on: column 0 is visible to every row.
        new_max = tl.maximum(row_max, tl.max(scores, 1) * scale_log2)
        weights = tl.exp2(scores * scale_log2 - new_max[:, None])
        rescale = tl.exp2(row_max - new_max)
        row_sum = row_sum * rescale + tl.sum(weights, 1)
        acc = acc * rescale[:, None]
        v = tl.load(v_ptrs, mask=columns[:, None] < length, other=0.0) if MASKED else tl.load(v_ptrs)  # [N, D]
        acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee")  # [M, D]
        row_max = new_max
        k_ptr += BLOCK_N * k_stride_t
        v_ptr += BLOCK_N * v_stride_t
    return acc, row_sum, row_max, k_ptr, v_ptr


@triton.jit
def prefill_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, cu_seqlens_ptr, scale_log2,
    q_stride_t, q_stride_h, k_stride_t, k_stride_h, v_stride_t, v_stride_h, out_stride_t, out_stride_h,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid: (query tiles of the longest sequence, Hq, sequences)."""
    # The rows with the most keys start first, so that the last wave is short.
    first_row = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_M
    head = tl.program_id(1)
    sequence = tl.program_id(2)
    first_token = tl.load(cu_seqlens_ptr + sequence)
    length = tl.load(cu_seqlens_ptr + sequence + 1) - first_token
    if first_row >= length:
        return

    token = first_token.to(tl.int64)
    tile_token = (first_token + first_row).to(tl.int64)
    k_ptr += token * k_stride_t + (head // GROUP) * k_stride_h
    v_ptr += token * v_stride_t + (head // GROUP) * v_stride_h
    q_ptr += tile_token * q_stride_t + head * q_stride_h
    out_ptr += tile_token * out_stride_t + head * out_stride_h

    tile_rows = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, HEAD_DIM)
    rows = first_row + tile_rows
    row_is_real = rows[:, None] < length
    q = tl.load(q_ptr + tile_rows[:, None] * q_stride_t + dims[None, :], mask=row_is_real, other=0.0)  # [M, D]

    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    diagonal = first_row // BLOCK_N * BLOCK_N
    end = tl.minimum(first_row + BLOCK_M, length)
    acc, row_sum, row_max, k_ptr, v_ptr = _attend(
        acc, row_sum, row_max, q, k_ptr, v_ptr, rows, 0, diagonal, length, scale_log2, k_stride_t, v_stride_t,
        MASKED=False, HEAD_DIM=HEAD_DIM, BLOCK_N=BLOCK_N,
    )  # fmt: skip
    acc, row_sum, row_max, k_ptr, v_ptr = _attend(
        acc, row_sum, row_max, q, k_ptr, v_ptr, rows, diagonal, end, length, scale_log2, k_stride_t, v_stride_t,
        MASKED=True, HEAD_DIM=HEAD_DIM, BLOCK_N=BLOCK_N,
    )  # fmt: skip

    out = acc / row_sum[:, None]
    out_ptrs = out_ptr + tile_rows[:, None] * out_stride_t + dims[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=row_is_real)


def launch(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float, out: Tensor, tile: PrefillTile
) -> None:
    """Write the attention of checked arguments into out [T, Hq, D]."""
    tokens, query_heads, head_dim = q.shape
    sequences = cu_seqlens.numel() - 1
    if tokens == 0 or sequences == 0 or max_seqlen == 0:
        return
    grid = (triton.cdiv(max_seqlen, tile.block_m), query_heads, sequences)
    with torch.cuda.device_of(q):
        prefill_kernel[grid](
            q, k, v, out, cu_seqlens, scale * math.log2(math.e),
            q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1), out.stride(0), out.stride(1),
            GROUP=query_heads // k.shape[1], HEAD_DIM=head_dim, BLOCK_M=tile.block_m, BLOCK_N=tile.block_n,
            num_warps=tile.num_warps, num_stages=tile.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
