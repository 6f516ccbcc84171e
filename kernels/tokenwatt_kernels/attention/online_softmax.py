"""What every attention kernel does with a tile of query rows: fold tiles of keys into a running softmax.

Shapes
    M query rows of a tile, N keys of a step (BLOCK_N), D head dimension in one or two parts (KEY_MAIN + KEY_TAIL),
    Dv value dimension, padded to V_BLOCK

Rows are the query heads of one KV head, token after token: row r is query r // G with head r % G of its group. So a
key tile is loaded once for all heads that share it. Scores live in the log2 domain; the sum of weights divides once, at
the end.

Keys are found in one of three ways. PAGE_SIZE 0: contiguous, the sequence's first key at row `first_key`. Otherwise
through the sequence's row of the block table: one entry for a step where a page holds whole steps, else one per key.
With DESCRIPTORS the hardware copies whole tiles of [slots, Hkv * D] (sm_90 to sm_107). Such a tile knows no end of a
context, behind which anything may lie, and 0 * NaN is NaN: so where keys must be masked, pointers are used.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

# Weights are at most 1. Where the products' type has a narrow range they are multiplied by a power of two, which leaves
# again with the division by their sum: by 2^8 in float8 e4m3, which ends at 448 and is coarse below 2^-6, by 2^14 in
# fp16, which ends at 65504 and is coarse below 2^-14.
FLOAT8_SHIFT = 8
FLOAT16_SHIFT = tl.constexpr(14)
LN_2 = tl.constexpr(math.log(2))
LOG2_E = tl.constexpr(math.log2(math.e))


def weight_shift(query_dtype: torch.dtype, key_dtype: torch.dtype) -> int:
    """WEIGHT_SHIFT of a call, which says in what type the products are: fp16 for bf16 queries over float8 keys."""
    if query_dtype == torch.float8_e4m3fn:
        return FLOAT8_SHIFT
    is_float16 = query_dtype == torch.float16 or (query_dtype == torch.bfloat16 and key_dtype == torch.float8_e4m3fn)
    return FLOAT16_SHIFT.value if is_float16 else 0


@triton.jit
def as_operands(q, q_tail, WEIGHT_SHIFT: tl.constexpr):
    """Queries in the type of both products, and the power of two that their scores must be multiplied by.

    bf16 queries over float8 keys become fp16: the hardware turns float8 into fp16 in one instruction, and into bf16 in
    three more. Nothing is lost, because a tile is scaled so that its largest number lies just below 2^15; then fp16
    keeps all bits of the numbers down to 2^-29 of that one.
    """
    restore = 1.0
    if WEIGHT_SHIFT == FLOAT16_SHIFT and q.dtype == tl.bfloat16:
        largest = tl.maximum(_largest(q), _largest(q_tail))
        # Powers of two are made of exponent bits, which exceed the exponent by 127; 15 keeps `restore` normal.
        exponent = tl.maximum(largest >> 7, 15)
        scale = ((268 - exponent) << 23).to(tl.float32, bitcast=True)
        restore = ((exponent - 14) << 23).to(tl.float32, bitcast=True)
        q = (q.to(tl.float32) * scale).to(tl.float16)
        q_tail = (q_tail.to(tl.float32) * scale).to(tl.float16)
    return q, q_tail, restore


@triton.jit
def _largest(q):
    """The bits of the largest finite magnitude of a bf16 tile; they grow as numbers do."""
    magnitudes = q.to(tl.int16, bitcast=True).to(tl.int32) & 0x7FFF
    return tl.max(tl.max(tl.where(magnitudes < 0x7F80, magnitudes, 0), 1), 0)


@triton.jit
def first_state(sinks_ptr, heads, has_sink, BLOCK_M: tl.constexpr, V_BLOCK: tl.constexpr, WEIGHT_SHIFT: tl.constexpr):
    """acc [M, V_BLOCK], row_sum [M], row_max [M] before any key. A sink is a key that was seen and had no value."""
    acc = tl.zeros([BLOCK_M, V_BLOCK], tl.float32)
    if sinks_ptr is None:
        row_sum = tl.zeros([BLOCK_M], tl.float32)
        row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    else:
        row_sum = tl.full([BLOCK_M], 1.0, tl.float32) * tl.where(has_sink, 2.0**WEIGHT_SHIFT, 0.0)
        row_max = tl.where(has_sink, tl.load(sinks_ptr + heads) * LOG2_E, float("-inf"))
    return acc, row_sum, row_max


@triton.jit
def attend(
    acc, row_sum, row_max, q, q_tail, k_ptr, v_ptr, k_desc, k_tail_desc, v_desc, table_ptr, positions, start, end,
    gap_start, gap, context, first_key, kv_head, factor, cap, window, k_stride_p, k_stride_t, v_stride_p, v_stride_t,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
    PAGE_SIZE: tl.constexpr, DESCRIPTORS: tl.constexpr, VALUES_ARE_KEYS: tl.constexpr, LIE_ALIKE: tl.constexpr,
    WEIGHT_SHIFT: tl.constexpr, KEY_MAIN: tl.constexpr, KEY_TAIL: tl.constexpr, VALUE_DIM: tl.constexpr,
    V_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Fold keys start..end-1 into the running softmax of rows at `positions`, but not `gap` keys from gap_start on.

    start, gap_start and gap are multiples of BLOCK_N.
    Without MASKED every row must see every key of every step; with DESCRIPTORS there is no mask.
    """
    steps = tl.arange(0, BLOCK_N)
    for place in range(start, end - gap, BLOCK_N):
        first = place + gap * (place >= gap_start) if MASKED else place
        columns = first + steps
        is_live = columns < context
        if DESCRIPTORS:
            slot = _slot(first, first_key, table_ptr, PAGE_SIZE)
            k = k_desc.load([slot, kv_head * (KEY_MAIN + KEY_TAIL)])  # [N, KEY_MAIN]
        else:
            k_rows = _rows(columns, first, is_live, table_ptr, k_stride_p, k_stride_t, PAGE_SIZE, BLOCK_N)
            k = _load(k_ptr, k_rows, is_live, MASKED, 0, KEY_MAIN, KEY_MAIN)  # [N, KEY_MAIN]
        scores = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee")  # [M, N]
        if KEY_TAIL > 0:
            if DESCRIPTORS:
                k_tail = k_tail_desc.load([slot, kv_head * (KEY_MAIN + KEY_TAIL) + KEY_MAIN])  # [N, KEY_TAIL]
            else:
                k_tail = _load(k_ptr, k_rows, is_live, MASKED, KEY_MAIN, KEY_TAIL, KEY_TAIL)  # [N, KEY_TAIL]
            scores = tl.dot(q_tail, tl.trans(k_tail.to(q.dtype)), scores, input_precision="ieee")
        if CAPPED:
            # cap * tanh(x) = cap - 2 cap / (1 + e^(2x)), with factor * score = 2x in log2 units.
            scores = cap - 2.0 * cap / (1.0 + tl.exp2(scores * factor))
            to_log2 = 1.0
        else:
            to_log2 = factor
        if MASKED:
            is_visible = is_live[None, :]
            if CAUSAL:
                is_visible = is_visible & (columns[None, :] <= positions[:, None])
            if WINDOWED:
                is_visible = is_visible & (columns[None, :] > positions[:, None] - window)
            scores = tl.where(is_visible, scores, float("-inf"))

        new_max = tl.maximum(row_max, tl.max(scores, 1) * to_log2)
        # A row that has seen nothing yet keeps weights of 0: -inf - -inf would be NaN.
        shift = tl.where(new_max == float("-inf"), 0.0, new_max) if MASKED else new_max
        weights = tl.exp2(scores * to_log2 - (shift - WEIGHT_SHIFT)[:, None])
        rescale = tl.exp2(row_max - shift)
        row_sum = row_sum * rescale + tl.sum(weights, 1)
        acc = acc * rescale[:, None]
        row_max = new_max

        if VALUES_ARE_KEYS:
            v = k  # [N, V_BLOCK]
        elif DESCRIPTORS:
            v = v_desc.load([slot, kv_head * VALUE_DIM])  # [N, V_BLOCK]
        else:
            v_rows = k_rows
            if not LIE_ALIKE:
                v_rows = _rows(columns, first, is_live, table_ptr, v_stride_p, v_stride_t, PAGE_SIZE, BLOCK_N)
            v = _load(v_ptr, v_rows, is_live, MASKED, 0, VALUE_DIM, V_BLOCK)  # [N, V_BLOCK]
        v = v.to(q.dtype)
        if v_ptr.dtype.element_ty != q.dtype:
            # Always so, and no instruction in the end. But for it, triton would fetch float8 values from shared memory
            # in the order of the product, byte by byte, before it turns them into 16 bits.
            v = tl.where(steps[:, None] >= 0, v, 0.0)
        acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee")  # [M, V_BLOCK]
    return acc, row_sum, row_max


@triton.jit
def finish(acc, row_sum, row_max, WEIGHT_SHIFT: tl.constexpr):
    """The normalised answer [M, V_BLOCK] and log2 of the sum of all weights [M]: 0 and -inf where nothing was seen."""
    is_seen = row_sum > 0.0
    divisor = tl.where(is_seen, row_sum, 1.0)
    log_sum = row_max + tl.log2(divisor * 2.0**-WEIGHT_SHIFT)
    return acc / divisor[:, None], tl.where(is_seen, log_sum, float("-inf"))


@triton.jit
def store_answer(
    out_ptr, log_sum_ptr, out, log_sum, tokens, heads, is_real, query_heads, out_stride_t, out_stride_h,
    VALUE_DIM: tl.constexpr, V_BLOCK: tl.constexpr,
):  # fmt: skip
    """Write out [M, V_BLOCK] and, where it is wanted, the natural log of what log_sum [M] is log2 of, as [Tq, Hq]."""
    dims = tl.arange(0, V_BLOCK)
    ptrs = out_ptr + (tokens * out_stride_t + heads * out_stride_h)[:, None] + dims[None, :]
    mask = is_real[:, None]
    if VALUE_DIM < V_BLOCK:
        mask = mask & (dims < VALUE_DIM)[None, :]
    tl.store(ptrs, out.to(out_ptr.dtype.element_ty), mask=mask)
    if log_sum_ptr is not None:
        tl.store(log_sum_ptr + tokens * query_heads + heads, log_sum * LN_2, mask=is_real)


@triton.jit
def head_scale(scale_ptr, kv_head, stride):
    """The factor of one KV head, or 1 where the tensor has none."""
    return 1.0 if scale_ptr is None else tl.load(scale_ptr + kv_head * stride)


@triton.jit
def _slot(first, first_key, table_ptr, PAGE_SIZE: tl.constexpr):
    """Row of a descriptor at which the step's keys begin."""
    if PAGE_SIZE == 0:
        slot = first_key + first
    else:
        slot = tl.load(table_ptr + first // PAGE_SIZE) * PAGE_SIZE + first % PAGE_SIZE
    return slot


@triton.jit
def _rows(columns, first, is_live, table_ptr, stride_p, stride_t, PAGE_SIZE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Element offset of each key: [N] int64, because a pool of 32,768 pages and more passes 2^31 elements."""
    if PAGE_SIZE == 0:
        rows = columns.to(tl.int64) * stride_t
    else:
        if PAGE_SIZE % BLOCK_N == 0:
            page = tl.load(table_ptr + first // PAGE_SIZE).to(tl.int64)
        else:
            page = tl.load(table_ptr + columns // PAGE_SIZE, mask=is_live, other=0).to(tl.int64)
        rows = page * stride_p + (columns % PAGE_SIZE) * stride_t
    return rows


@triton.jit
def _load(ptr, rows, is_live, MASKED: tl.constexpr, FIRST_DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """[N, BLOCK]: dimensions FIRST_DIM .. FIRST_DIM + WIDTH - 1 of each key, zeros behind them and for dead keys."""
    dims = tl.arange(0, BLOCK)
    ptrs = ptr + rows[:, None] + (FIRST_DIM + dims)[None, :]
    if MASKED and WIDTH < BLOCK:
        tile = tl.load(ptrs, mask=is_live[:, None] & (dims < WIDTH)[None, :], other=0.0)
    elif MASKED:
        tile = tl.load(ptrs, mask=is_live[:, None], other=0.0)
    elif WIDTH < BLOCK:
        tile = tl.load(ptrs, mask=(dims < WIDTH)[None, :], other=0.0)
    else:
        tile = tl.load(ptrs)
    return tile


@triton.jit
def load_queries(ptr, rows, is_real, FIRST_DIM: tl.constexpr, WIDTH: tl.constexpr):
    """[M, WIDTH]: dimensions FIRST_DIM .. FIRST_DIM + WIDTH - 1 of the queries at element offsets `rows`."""
    dims = FIRST_DIM + tl.arange(0, WIDTH)
    return tl.load(ptr + rows[:, None] + dims[None, :], mask=is_real[:, None], other=0.0)
