"""Paged decode attention: one query token per sequence, its context split over several programs, then combined.

Shapes
    B sequences, Hq query heads, Hkv key/value heads, D head dimension, G = Hq / Hkv, S splits of a context
    M rows of the query tile (the G heads of one KV head, padded), N cached tokens of one step (BLOCK_N)

`split_kernel` writes a normalised partial output and its log2-sum-exp2 per split; `combine_kernel` weighs them.
An empty split, or an empty context, has log-sum -inf and weight zero.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwatt_kernels.attention.decode.tiles import DecodeTile, block_rows


# The width of the block table must not mean another compilation.
@triton.jit(do_not_specialize=["table_stride_b"])
def split_kernel(
    q_ptr, k_ptr, v_ptr, block_table_ptr, context_lens_ptr, partial_ptr, log_sum_ptr, scale_log2,
    q_stride_b, q_stride_h, page_stride, slot_stride, head_stride, table_stride_b,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid: (sequences, Hkv, splits). partial: [B, Hq, S, D] fp32; log_sum: [B, Hq, S] fp32, in log2."""
    sequence = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(context_lens_ptr + sequence)
    tokens_per_split = tl.cdiv(tl.cdiv(length, SPLITS), BLOCK_N) * BLOCK_N
    start = split * tokens_per_split
    end = tl.minimum(start + tokens_per_split, length)

    group_heads = tl.arange(0, BLOCK_M)
    heads = kv_head * GROUP + group_heads
    head_is_real = group_heads < GROUP
    dims = tl.arange(0, HEAD_DIM)
    steps = tl.arange(0, BLOCK_N)
    q_ptrs = q_ptr + sequence.to(tl.int64) * q_stride_b + heads[:, None] * q_stride_h + dims[None, :]
    q = tl.load(q_ptrs, mask=head_is_real[:, None], other=0.0)  # [M, D]

    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    table_ptr = block_table_ptr + sequence.to(tl.int64) * table_stride_b
    for first in range(start, end, BLOCK_N):
        tokens = first + steps
        token_is_live = tokens < end
        # A pool of 32,768 pages and more passes 2^31 elements.
        pages = tl.load(table_ptr + tokens // PAGE_SIZE, mask=token_is_live, other=0).to(tl.int64)
        offsets = pages * page_stride + (tokens % PAGE_SIZE) * slot_stride + kv_head * head_stride
        k = tl.load(k_ptr + offsets[:, None] + dims[None, :], mask=token_is_live[:, None], other=0.0)  # [N, D]
        v = tl.load(v_ptr + offsets[:, None] + dims[None, :], mask=token_is_live[:, None], other=0.0)  # [N, D]
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2  # [M, N]
        scores = tl.where(token_is_live[None, :], scores, float("-inf"))
        # Finite: each step holds at least one live token.
        new_max = tl.maximum(row_max, tl.max(scores, 1))
        weights = tl.exp2(scores - new_max[:, None])
        rescale = tl.exp2(row_max - new_max)
        row_sum = row_sum * rescale + tl.sum(weights, 1)
        acc = acc * rescale[:, None]
        acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee")  # [M, D]
        row_max = new_max

    # An empty split has row_sum 0: its partial is 0 / 1, its log-sum -inf + 0.
    divisor = tl.where(row_sum > 0.0, row_sum, 1.0)
    query_heads = tl.num_programs(1) * GROUP
    slots = (sequence.to(tl.int64) * query_heads + heads) * SPLITS + split
    tl.store(log_sum_ptr + slots, row_max + tl.log2(divisor), mask=head_is_real)
    partial_ptrs = partial_ptr + slots[:, None] * HEAD_DIM + dims[None, :]
    tl.store(partial_ptrs, acc / divisor[:, None], mask=head_is_real[:, None])


@triton.jit
def combine_kernel(
    partial_ptr, log_sum_ptr, out_ptr, out_stride_b, out_stride_h,
    HEAD_DIM: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Grid: (sequences, Hq). Weighs the S partial outputs of one head by exp2(log_sum)."""
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    dims = tl.arange(0, HEAD_DIM)
    slots = (sequence * tl.num_programs(1) + head) * SPLITS + tl.arange(0, SPLITS)
    log_sums = tl.load(log_sum_ptr + slots)  # [S]
    partials = tl.load(partial_ptr + slots[:, None] * HEAD_DIM + dims[None, :])  # [S, D]
    highest = tl.max(log_sums, 0)
    # With an empty context all are -inf, and -inf - -inf would be NaN.
    weights = tl.exp2(log_sums - tl.where(highest > float("-inf"), highest, 0.0))
    total = tl.sum(weights, 0)
    out = tl.sum(weights[:, None] * partials, 0) / tl.where(total > 0.0, total, 1.0)
    out_ptrs = out_ptr + sequence * out_stride_b + head * out_stride_h + dims
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty))


def launch(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    scale: float,
    out: Tensor,
    tile: DecodeTile,
    splits: int,
) -> None:
    """Write the attention of checked arguments into out [B, Hq, D]. `splits` is a power of two."""
    sequences, query_heads, head_dim = q.shape
    if sequences == 0:
        return
    kv_heads = k_cache.shape[2]
    group = query_heads // kv_heads
    partial = torch.empty(sequences, query_heads, splits, head_dim, dtype=torch.float32, device=q.device)
    log_sum = torch.empty(sequences, query_heads, splits, dtype=torch.float32, device=q.device)
    with torch.cuda.device_of(q):
        split_kernel[(sequences, kv_heads, splits)](
            q, k_cache, v_cache, block_table, context_lens, partial, log_sum, scale * math.log2(math.e),
            q.stride(0), q.stride(1), *k_cache.stride()[:3], block_table.stride(0),
            GROUP=group, HEAD_DIM=head_dim, PAGE_SIZE=k_cache.shape[1], SPLITS=splits,
            BLOCK_M=block_rows(group), BLOCK_N=tile.block_n,
            num_warps=tile.num_warps, num_stages=tile.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
        combine_kernel[(sequences, query_heads)](
            partial, log_sum, out, out.stride(0), out.stride(1), HEAD_DIM=head_dim, SPLITS=splits,
            num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
