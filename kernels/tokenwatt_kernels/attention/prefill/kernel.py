"""Prefill attention: many queries per sequence, over contiguous or paged keys.

Shapes
    Tq queries of all sequences, Hq query heads, Hkv key/value heads, D and Dv their dimensions, G = Hq / Hkv
    M rows of one program (BLOCK_M): the G heads of one KV head, query after query; N keys of one step (BLOCK_N)

One program owns M rows of one KV head of one sequence. Steps that every row sees in full need no mask; steps at the
diagonal, at the edge of the window and at the end of the context do; the others are never visited.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwatt_kernels.attention import online_softmax as softmax
from tokenwatt_kernels.attention.heads import is_power_of_two, key_parts, value_block
from tokenwatt_kernels.attention.keys import Keys
from tokenwatt_kernels.attention.options import Options, scale_stride
from tokenwatt_kernels.attention.prefill.tiles import MOST_DIMS_IN_REGISTERS, PrefillTile
from tokenwatt_kernels.targets import REGISTERS_PER_THREAD


# The width of the block table and the window must not mean another compilation, nor the place in a batch where its
# chunks begin.
@triton.jit(do_not_specialize=["table_stride_b", "window"], do_not_specialize_on_alignment=["context_lens_ptr"])
def prefill_kernel(
    q_ptr, k_ptr, v_ptr, k_desc, k_tail_desc, v_desc, out_ptr, log_sum_ptr, query_starts_ptr, key_starts_ptr,
    context_lens_ptr, table_ptr, sinks_ptr, q_scale_ptr, k_scale_ptr, v_scale_ptr, factor, cap, window, query_heads,
    q_stride_t, q_stride_h, k_stride_p, k_stride_t, k_stride_h, v_stride_p, v_stride_t, v_stride_h,
    out_stride_t, out_stride_h, table_stride_b, q_scale_stride, k_scale_stride, v_scale_stride,
    GROUP: tl.constexpr, KEY_MAIN: tl.constexpr, KEY_TAIL: tl.constexpr, VALUE_DIM: tl.constexpr,
    V_BLOCK: tl.constexpr, PAGE_SIZE: tl.constexpr, DESCRIPTORS: tl.constexpr, LIE_ALIKE: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, WEIGHT_SHIFT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE_N: tl.constexpr,
):  # fmt: skip
    """Grid: (row tiles of the longest sequence, Hkv, sequences)."""
    # The rows with the most keys start first, so that the last wave is short.
    first_row = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_M
    kv_head = tl.program_id(1)
    sequence = tl.program_id(2)
    first_query = tl.load(query_starts_ptr + sequence)
    queries = tl.load(query_starts_ptr + sequence + 1) - first_query
    if first_row >= queries * GROUP:
        return

    if PAGE_SIZE == 0:
        first_key = tl.load(key_starts_ptr + sequence)
        context = tl.load(key_starts_ptr + sequence + 1) - first_key
        table_row_ptr = table_ptr
    else:
        first_key = 0
        context = tl.load(context_lens_ptr + sequence)
        table_row_ptr = table_ptr + sequence.to(tl.int64) * table_stride_b
    k_ptr += kv_head * k_stride_h + tl.cast(first_key, tl.int64) * k_stride_t
    v_ptr += kv_head * v_stride_h + tl.cast(first_key, tl.int64) * v_stride_t

    rows = first_row + tl.arange(0, BLOCK_M)
    is_real = rows < queries * GROUP
    heads = kv_head * GROUP + rows % GROUP
    tokens = (first_query + rows // GROUP).to(tl.int64)
    positions = context - queries + rows // GROUP
    q_rows = tokens * q_stride_t + heads * q_stride_h
    q = softmax.load_queries(q_ptr, q_rows, is_real, 0, KEY_MAIN)  # [M, KEY_MAIN]
    q_tail = q
    if KEY_TAIL > 0:
        q_tail = softmax.load_queries(q_ptr, q_rows, is_real, KEY_MAIN, KEY_TAIL)  # [M, KEY_TAIL]
    q, q_tail, restore = softmax.as_operands(q, q_tail, WEIGHT_SHIFT)
    factor *= restore
    factor *= softmax.head_scale(q_scale_ptr, kv_head, q_scale_stride)
    factor *= softmax.head_scale(k_scale_ptr, kv_head, k_scale_stride)

    # No row sees a key before start or after end, and every row sees all keys from whole_start to whole_end.
    first_position = context - queries + first_row // GROUP
    last_position = context - queries + (tl.minimum(first_row + BLOCK_M, queries * GROUP) - 1) // GROUP
    start = 0
    whole_start = 0
    end = context
    whole_end = context // BLOCK_N * BLOCK_N
    if CAUSAL:
        end = tl.maximum(tl.minimum(last_position + 1, context), 0)
        whole_end = tl.maximum(tl.minimum(first_position + 1, context), 0) // BLOCK_N * BLOCK_N
    if WINDOWED:
        start = tl.maximum(first_position - window + 1, 0) // BLOCK_N * BLOCK_N
        whole_start = tl.cdiv(tl.maximum(last_position - window + 1, 0), BLOCK_N) * BLOCK_N
        whole_end = tl.maximum(whole_end, whole_start)

    acc, row_sum, row_max = softmax.first_state(sinks_ptr, heads, is_real, BLOCK_M, V_BLOCK, WEIGHT_SHIFT)
    for phase in tl.static_range(2):  # whole steps, then the edges, which need a mask
        acc, row_sum, row_max = softmax.attend(
            acc, row_sum, row_max, q, q_tail, k_ptr, v_ptr, k_desc, k_tail_desc, v_desc, table_row_ptr, positions,
            whole_start if phase == 0 else start, whole_end if phase == 0 else end,
            whole_start, 0 if phase == 0 else whole_end - whole_start,
            context, first_key, kv_head, factor, cap, window, k_stride_p, k_stride_t, v_stride_p, v_stride_t,
            MASKED=phase == 1, CAUSAL=CAUSAL, WINDOWED=WINDOWED, CAPPED=CAPPED, PAGE_SIZE=PAGE_SIZE,
            DESCRIPTORS=DESCRIPTORS and phase == 0, VALUES_ARE_KEYS=False, LIE_ALIKE=LIE_ALIKE,
            WEIGHT_SHIFT=WEIGHT_SHIFT, KEY_MAIN=KEY_MAIN, KEY_TAIL=KEY_TAIL, VALUE_DIM=VALUE_DIM,
            V_BLOCK=V_BLOCK, BLOCK_N=BLOCK_N if phase == 0 else EDGE_N,
        )  # fmt: skip

    out, log_sum = softmax.finish(acc, row_sum, row_max, WEIGHT_SHIFT)
    out *= softmax.head_scale(v_scale_ptr, kv_head, v_scale_stride)
    softmax.store_answer(
        out_ptr, log_sum_ptr, out, log_sum, tokens, heads, is_real, query_heads, out_stride_t, out_stride_h,
        VALUE_DIM, V_BLOCK,
    )  # fmt: skip


def max_registers(head_dim: int, query_dtype: torch.dtype) -> int | None:
    """What the compiler is told that a thread may take; None for nothing, which it mostly gets right.

    Of heads in two parts, and of float8, it would rather spill than give up a second program on the multiprocessor.
    """
    is_left_alone = is_power_of_two(head_dim) and query_dtype != torch.float8_e4m3fn
    return None if is_left_alone else REGISTERS_PER_THREAD


def weight_shift(query_dtype: torch.dtype, key_dtype: torch.dtype, value_dim: int) -> int:
    """`online_softmax.weight_shift`, but with wide values bf16 queries stay what they are over float8 keys.

    What is computed triton multiplies from registers, and there would be none beside so wide an answer.
    """
    is_wide = query_dtype == torch.bfloat16 and value_dim > MOST_DIMS_IN_REGISTERS
    return 0 if is_wide else softmax.weight_shift(query_dtype, key_dtype)


def pipeline_stages(num_stages: int, page_size: int) -> int:
    """What triton's pipeliner is asked for: it halves the distance where an address depends on another load."""
    return 2 * num_stages - 1 if page_size else num_stages


def launch(
    q: Tensor,
    keys: Keys,
    query_starts: Tensor,
    max_queries: int,
    options: Options,
    out: Tensor,
    log_sum: Tensor | None,
    tile: PrefillTile,
) -> None:
    """Write the attention of checked arguments into out [Tq, Hq, Dv] and, unless None, log_sum [Tq, Hq] (natural)."""
    queries, query_heads, head_dim = q.shape
    sequences = query_starts.numel() - 1
    if queries == 0 or sequences == 0 or max_queries == 0:
        return
    group = query_heads // keys.heads
    main, tail = key_parts(head_dim)
    descriptors = keys.descriptors(tile.block_n) if tile.descriptors else (None, None, None)
    grid = (triton.cdiv(max_queries * group, tile.block_m), keys.heads, sequences)
    with torch.cuda.device_of(q):
        prefill_kernel[grid](
            q, keys.k, keys.v, *descriptors, out, log_sum, query_starts, keys.starts, keys.context_lens,
            keys.block_table, options.sinks, options.q_scale, options.k_scale, options.v_scale,
            options.factor(head_dim), options.cap, options.window or 0, query_heads,
            q.stride(0), q.stride(1), *keys.strides(keys.k), *keys.strides(keys.v),
            out.stride(0), out.stride(1), 0 if keys.block_table is None else keys.block_table.stride(0),
            *(scale_stride(scale) for scale in (options.q_scale, options.k_scale, options.v_scale)),
            GROUP=group, KEY_MAIN=main, KEY_TAIL=tail, VALUE_DIM=keys.value_dim, V_BLOCK=value_block(keys.value_dim),
            PAGE_SIZE=keys.page_size, DESCRIPTORS=tile.descriptors, LIE_ALIKE=keys.lie_alike, CAUSAL=options.causal,
            WINDOWED=options.window is not None, CAPPED=options.softcap is not None,
            WEIGHT_SHIFT=weight_shift(q.dtype, keys.k.dtype, keys.value_dim),
            BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, EDGE_N=tile.edge_n,
            num_warps=tile.num_warps, num_stages=pipeline_stages(tile.num_stages, keys.page_size),
            maxnreg=max_registers(head_dim, q.dtype), enable_fp_fusion=True,
        )  # fmt: skip
