"""Decode attention: a few queries per sequence over paged keys, the keys of the batch shared evenly among programs.

Shapes
    B sequences, Q queries each, Hq query heads, Hkv key/value heads, D and Dv their dimensions, G = Hq / Hkv
    M rows of a tile (BLOCK_M): the G heads of one KV head, query after query; N keys of a step (BLOCK_N)
    P programs

A *segment* is M rows of one KV head of one sequence, with all keys that they see, in steps of N. The steps of all
segments form one line, sequence after sequence, and each program takes an equal share of it. So the launch is the same
for every batch and length, and no program waits for a longer one. A program that walks a whole segment writes its
answer; a program that walks a part leaves a partial answer. `combine_kernel` adds the parts up, or where a tile `joins`
the last program that leaves one of a segment.

A program has at most two parts: slot 0 for a segment that began before its share, slot 1 for one that ends after it.
Every program works out its share from the lengths on the device; nothing is read back to the host.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwatt_kernels import arrivals as arrivals
from tokenwatt_kernels import following as following
from tokenwatt_kernels.attention import online_softmax as softmax
from tokenwatt_kernels.attention.decode.tiles import WIDE_VALUES, DecodeTile
from tokenwatt_kernels.attention.heads import key_parts, value_block
from tokenwatt_kernels.attention.keys import Keys
from tokenwatt_kernels.attention.options import Options, scale_stride

SEQUENCES_AT_ONCE = 256  # lengths that a program reads in one go; a power of two
ROWS_AT_ONCE = 4  # of a combining program
MOST_ELEMENTS_AT_ONCE = 4096  # fp32 values that a combining program holds


@triton.jit
def _steps(context, window, QUERIES: tl.constexpr, WINDOWED: tl.constexpr, BLOCK_N: tl.constexpr):
    """First step that any query of a sequence sees, and how many: at least one, so that every answer is written."""
    first = context * 0
    if WINDOWED:
        first = tl.maximum(context - QUERIES + 1 - window, 0) // BLOCK_N
    return first, tl.maximum(tl.cdiv(context, BLOCK_N) - first, 1)


@triton.jit
def _lengths(context_lens_ptr, first, sequences, SEQUENCES_AT_ONCE: tl.constexpr):
    index = first + tl.arange(0, SEQUENCES_AT_ONCE)
    return tl.load(context_lens_ptr + index, mask=index < sequences, other=0), index < sequences


@triton.jit
def _line_length(
    context_lens_ptr, sequences, window, SEGMENTS: tl.constexpr, QUERIES: tl.constexpr, WINDOWED: tl.constexpr,
    BLOCK_N: tl.constexpr, SEQUENCES_AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Steps of all segments together."""
    total = 0
    for first in range(0, sequences, SEQUENCES_AT_ONCE):
        contexts, is_real = _lengths(context_lens_ptr, first, sequences, SEQUENCES_AT_ONCE)
        _, steps = _steps(contexts, window, QUERIES, WINDOWED, BLOCK_N)
        total += tl.sum(tl.where(is_real, steps, 0), 0) * SEGMENTS
    return total


@triton.jit
def _find(
    place, context_lens_ptr, sequences, window, SEGMENTS: tl.constexpr, QUERIES: tl.constexpr, WINDOWED: tl.constexpr,
    BLOCK_N: tl.constexpr, SEQUENCES_AT_ONCE: tl.constexpr,
):  # fmt: skip
    """The sequence that owns a place of the line, and the place where that sequence begins."""
    sequence = 0
    begin = 0
    passed = 0
    for first in range(0, sequences, SEQUENCES_AT_ONCE):
        contexts, is_real = _lengths(context_lens_ptr, first, sequences, SEQUENCES_AT_ONCE)
        _, steps = _steps(contexts, window, QUERIES, WINDOWED, BLOCK_N)
        steps = tl.where(is_real, steps * SEGMENTS, 0)
        ends = passed + tl.cumsum(steps, 0)
        is_before = is_real & (ends <= place)
        sequence += tl.sum(is_before.to(tl.int32), 0)
        begin = tl.maximum(begin, tl.max(tl.where(is_before, ends, 0), 0))
        passed += tl.sum(steps, 0)
    return sequence, begin


@triton.jit
def _add_up(
    partial_ptr, partial_log_sum_ptr, out_ptr, log_sum_ptr, program, parts, sequence, segment, tile_rows,
    out_stride_t, out_stride_h,
    QUERIES: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROW_BLOCKS: tl.constexpr,
    VALUE_DIM: tl.constexpr, V_BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Write the answer for tile_rows (R) of a segment that begins in a program's share: BLOCK_P parts at a time."""
    dims = tl.arange(0, V_BLOCK)
    rows = segment % ROW_BLOCKS * BLOCK_M + tile_rows
    is_real = (tile_rows < BLOCK_M) & (rows < QUERIES * GROUP)
    acc = tl.zeros([tile_rows.shape[0], V_BLOCK], tl.float32)
    row_sum = tl.zeros([tile_rows.shape[0]], tl.float32)
    row_max = tl.full([tile_rows.shape[0]], float("-inf"), tl.float32)
    for first in range(0, parts, BLOCK_P):
        part = first + tl.arange(0, BLOCK_P)
        # The first part is the last of its program, the others are the first of theirs.
        slots = ((program + part) * 2 + (part == 0).to(tl.int32))[:, None] * BLOCK_M + tile_rows[None, :]
        is_part = (part < parts)[:, None] & is_real[None, :]
        # Not from L1, which does not hear of what other multiprocessors store.
        log_sums = tl.load(
            partial_log_sum_ptr + slots, mask=is_part, other=float("-inf"), cache_modifier=".cg"
        )  # [P, R]
        partial_ptrs = partial_ptr + slots.to(tl.int64)[:, :, None] * VALUE_DIM + dims[None, None, :]
        is_element = is_part[:, :, None] & (dims < VALUE_DIM)[None, None, :]
        partials = tl.load(partial_ptrs, mask=is_element, other=0.0, cache_modifier=".cg")
        new_max = tl.maximum(row_max, tl.max(log_sums, 0))
        # A row to which no part has a key keeps weights of 0: -inf - -inf would be NaN.
        shift = tl.where(new_max == float("-inf"), 0.0, new_max)
        weights = tl.exp2(log_sums - shift[None, :])  # [P, R]
        rescale = tl.exp2(row_max - shift)
        row_sum = row_sum * rescale + tl.sum(weights, 0)
        acc = acc * rescale[:, None] + tl.sum(weights[:, :, None] * partials, 0)
        row_max = new_max

    answer, log_sum = softmax.finish(acc, row_sum, row_max, 0)
    heads = segment // ROW_BLOCKS * GROUP + rows % GROUP
    tokens = sequence.to(tl.int64) * QUERIES + rows // GROUP
    softmax.store_answer(
        out_ptr, log_sum_ptr, answer, log_sum, tokens, heads, is_real, KV_HEADS * GROUP, out_stride_t, out_stride_h,
        VALUE_DIM, V_BLOCK,
    )  # fmt: skip


# The width of the block table, the batch and the window must not mean another compilation.
@triton.jit(do_not_specialize=["table_stride_b", "window", "sequences"])
def split_kernel(
    q_ptr, k_ptr, v_ptr, k_desc, k_tail_desc, v_desc, out_ptr, log_sum_ptr, partial_ptr, partial_log_sum_ptr,
    arrivals_ptr, context_lens_ptr, table_ptr, sinks_ptr, k_scale_ptr, v_scale_ptr, factor, cap, window, sequences,
    q_stride_t, q_stride_h, k_stride_p, k_stride_t, k_stride_h, v_stride_p, v_stride_t, v_stride_h,
    out_stride_t, out_stride_h, table_stride_b, k_scale_stride, v_scale_stride,
    QUERIES: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROW_BLOCKS: tl.constexpr,
    KEY_MAIN: tl.constexpr, KEY_TAIL: tl.constexpr, VALUE_DIM: tl.constexpr, V_BLOCK: tl.constexpr,
    PAGE_SIZE: tl.constexpr, DESCRIPTORS: tl.constexpr, VALUES_ARE_KEYS: tl.constexpr, LIE_ALIKE: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, WEIGHT_SHIFT: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, EDGE_N: tl.constexpr, FOLLOWS: tl.constexpr, JOINS: tl.constexpr,
    LEAST_STEPS: tl.constexpr, SEQUENCES_AT_ONCE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Grid: (P,). partial: [P, 2, M, Dv] fp32, normalised; partial_log_sum: [P, 2, M] fp32, in log2.

    arrivals: int32 [B * SEGMENTS], zeros. BLOCK_R rows and BLOCK_P parts are added up at a time.
    """
    following.begin(FOLLOWS)
    SEGMENTS: tl.constexpr = KV_HEADS * ROW_BLOCKS
    program = tl.program_id(0)
    total = _line_length(context_lens_ptr, sequences, window, SEGMENTS, QUERIES, WINDOWED, BLOCK_N, SEQUENCES_AT_ONCE)
    share = tl.maximum(tl.cdiv(total, tl.num_programs(0)), LEAST_STEPS)
    place = program * share
    stop = tl.minimum(place + share, total)
    sequence, begin = _find(
        place, context_lens_ptr, sequences, window, SEGMENTS, QUERIES, WINDOWED, BLOCK_N, SEQUENCES_AT_ONCE
    )
    while place < stop:
        context = tl.load(context_lens_ptr + sequence)
        first_step, steps = _steps(context, window, QUERIES, WINDOWED, BLOCK_N)
        segment = (place - begin) // steps
        step = (place - begin) % steps
        count = tl.minimum(steps - step, stop - place)
        kv_head = segment // ROW_BLOCKS
        rows = segment % ROW_BLOCKS * BLOCK_M + tl.arange(0, BLOCK_M)
        is_real = rows < QUERIES * GROUP
        heads = kv_head * GROUP + rows % GROUP
        tokens = sequence.to(tl.int64) * QUERIES + rows // GROUP
        positions = context - QUERIES + rows // GROUP
        q_rows = tokens * q_stride_t + heads * q_stride_h
        q = softmax.load_queries(q_ptr, q_rows, is_real, 0, KEY_MAIN)  # [M, KEY_MAIN]
        q_tail = q
        if KEY_TAIL > 0:
            q_tail = softmax.load_queries(q_ptr, q_rows, is_real, KEY_MAIN, KEY_TAIL)  # [M, KEY_TAIL]
        q, q_tail, restore = softmax.as_operands(q, q_tail, WEIGHT_SHIFT)

        has_sink = is_real & (step == 0)
        acc, row_sum, row_max = softmax.first_state(sinks_ptr, heads, has_sink, BLOCK_M, V_BLOCK, WEIGHT_SHIFT)
        start = (first_step + step) * BLOCK_N
        end = tl.minimum(start + count * BLOCK_N, context)
        # With descriptors the steps that every row sees in full come first, without a mask.
        whole_start = start
        whole_end = start
        if DESCRIPTORS:
            whole_end = tl.minimum(tl.maximum(context - QUERIES + 1, 0), end) // BLOCK_N * BLOCK_N
            if WINDOWED:
                seen_by_the_last = tl.cdiv(tl.maximum(context - window, 0), BLOCK_N) * BLOCK_N
                whole_start = tl.maximum(seen_by_the_last, start)
            whole_end = tl.maximum(whole_end, whole_start)
        for phase in tl.static_range(0 if DESCRIPTORS else 1, 2):
            acc, row_sum, row_max = softmax.attend(
                acc, row_sum, row_max, q, q_tail, k_ptr + kv_head * k_stride_h, v_ptr + kv_head * v_stride_h,
                k_desc, k_tail_desc, v_desc, table_ptr + sequence.to(tl.int64) * table_stride_b, positions,
                whole_start if phase == 0 else start, whole_end if phase == 0 else end,
                whole_start, 0 if phase == 0 else whole_end - whole_start, context, 0,
                kv_head, factor * restore * softmax.head_scale(k_scale_ptr, kv_head, k_scale_stride), cap, window,
                k_stride_p, k_stride_t, v_stride_p, v_stride_t,
                MASKED=phase == 1, CAUSAL=QUERIES > 1, WINDOWED=WINDOWED, CAPPED=CAPPED, PAGE_SIZE=PAGE_SIZE,
                DESCRIPTORS=phase == 0, VALUES_ARE_KEYS=VALUES_ARE_KEYS, LIE_ALIKE=LIE_ALIKE,
                WEIGHT_SHIFT=WEIGHT_SHIFT, KEY_MAIN=KEY_MAIN,
                KEY_TAIL=KEY_TAIL, VALUE_DIM=VALUE_DIM, V_BLOCK=V_BLOCK, BLOCK_N=BLOCK_N if phase == 0 else EDGE_N,
            )  # fmt: skip
        answer, log_sum = softmax.finish(acc, row_sum, row_max, WEIGHT_SHIFT)
        answer *= softmax.head_scale(v_scale_ptr, kv_head, v_scale_stride)
        if count == steps:
            softmax.store_answer(
                out_ptr, log_sum_ptr, answer, log_sum, tokens, heads, is_real, KV_HEADS * GROUP,
                out_stride_t, out_stride_h, VALUE_DIM, V_BLOCK,
            )  # fmt: skip
        else:
            slots = (program * 2 + (step == 0).to(tl.int32)) * BLOCK_M + tl.arange(0, BLOCK_M)
            softmax.store_answer(
                partial_ptr, None, answer, log_sum, slots, heads * 0, is_real, 0,
                VALUE_DIM, 0, VALUE_DIM, V_BLOCK,
            )  # fmt: skip
            tl.store(partial_log_sum_ptr + slots, log_sum, mask=is_real)
            if JOINS:
                segment_begin = begin + segment * steps
                first = segment_begin // share
                parts = (segment_begin + steps - 1) // share - first + 1
                if arrivals.is_last(arrivals_ptr, sequence * SEGMENTS + segment, parts):
                    for first_row in range(0, BLOCK_M, BLOCK_R):
                        _add_up(
                            partial_ptr, partial_log_sum_ptr, out_ptr, log_sum_ptr, first, parts, sequence, segment,
                            first_row + tl.arange(0, BLOCK_R), out_stride_t, out_stride_h,
                            QUERIES, KV_HEADS, GROUP, ROW_BLOCKS, VALUE_DIM, V_BLOCK, BLOCK_M, BLOCK_P,
                        )  # fmt: skip

        place += count
        if place - begin == steps * SEGMENTS:
            sequence += 1
            begin = place


@triton.jit(do_not_specialize=["window", "sequences"])
def combine_kernel(
    partial_ptr, partial_log_sum_ptr, out_ptr, log_sum_ptr, context_lens_ptr, window, sequences,
    out_stride_t, out_stride_h,
    QUERIES: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROW_BLOCKS: tl.constexpr,
    VALUE_DIM: tl.constexpr, V_BLOCK: tl.constexpr, WINDOWED: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, LEAST_STEPS: tl.constexpr, SEQUENCES_AT_ONCE: tl.constexpr,
    FOLLOWS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Grid: (P, row tiles). Program p adds up the segment that begins in p's share and ends behind it, if there is one.

    BLOCK_R rows (R) and BLOCK_P parts at a time.
    """
    following.begin(FOLLOWS)
    SEGMENTS: tl.constexpr = KV_HEADS * ROW_BLOCKS
    program = tl.program_id(0)
    total = _line_length(context_lens_ptr, sequences, window, SEGMENTS, QUERIES, WINDOWED, BLOCK_N, SEQUENCES_AT_ONCE)
    share = tl.maximum(tl.cdiv(total, tl.num_programs(0)), LEAST_STEPS)
    place = program * share
    stop = tl.minimum(place + share, total)
    if place >= total:
        return
    sequence, begin = _find(
        stop - 1, context_lens_ptr, sequences, window, SEGMENTS, QUERIES, WINDOWED, BLOCK_N, SEQUENCES_AT_ONCE
    )
    context = tl.load(context_lens_ptr + sequence)
    _, steps = _steps(context, window, QUERIES, WINDOWED, BLOCK_N)
    segment = (stop - 1 - begin) // steps
    segment_begin = begin + segment * steps
    if (segment_begin < place) | (segment_begin + steps <= stop):
        return

    parts = (segment_begin + steps - 1) // share - program + 1
    tile_rows = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    _add_up(
        partial_ptr, partial_log_sum_ptr, out_ptr, log_sum_ptr, program, parts, sequence, segment, tile_rows,
        out_stride_t, out_stride_h,
        QUERIES, KV_HEADS, GROUP, ROW_BLOCKS, VALUE_DIM, V_BLOCK, BLOCK_M, BLOCK_P,
    )  # fmt: skip


def pipeline_stages(num_stages: int) -> int:
    """What triton's pipeliner is asked for: it halves the distance where an address depends on a block-table entry."""
    return 2 * num_stages + 1


def combine_blocks(tile: DecodeTile, value_dim: int) -> tuple[int, int]:
    """Rows and parts that a combining program holds at a time."""
    block_r = min(tile.block_m, ROWS_AT_ONCE)
    return block_r, min(tile.parts_at_once, max(1, MOST_ELEMENTS_AT_ONCE // (block_r * value_block(value_dim))))


def combine_warps(value_dim: int) -> int:
    """Warps of a combining program."""
    return 8 if value_block(value_dim) > WIDE_VALUES else 4


def launch(
    q: Tensor,
    queries: int,
    keys: Keys,
    options: Options,
    out: Tensor,
    log_sum: Tensor | None,
    tile: DecodeTile,
    programs: int,
) -> None:
    """Write the attention of checked arguments into out [B * Q, Hq, Dv] and, unless None, log_sum [B * Q, Hq].

    q: [B * Q, Hq, D], with Q = `queries`.
    """
    tokens, query_heads, head_dim = q.shape
    if keys.block_table is None:
        raise ValueError("keys must be paged for decode attention, got packed ones")
    if tokens == 0:
        return
    sequences = tokens // queries
    group = query_heads // keys.heads
    main, tail = key_parts(head_dim)
    block_r, block_p = combine_blocks(tile, keys.value_dim)
    partial = torch.empty(programs, 2, tile.block_m, keys.value_dim, dtype=torch.float32, device=q.device)
    partial_log_sum = torch.empty(programs, 2, tile.block_m, dtype=torch.float32, device=q.device)
    shape = {
        "QUERIES": queries,
        "KV_HEADS": keys.heads,
        "GROUP": group,
        "ROW_BLOCKS": triton.cdiv(queries * group, tile.block_m),
        "VALUE_DIM": keys.value_dim,
        "V_BLOCK": value_block(keys.value_dim),
        "WINDOWED": options.window is not None,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        **following.options(q.device),
        "LEAST_STEPS": tile.least_steps,
        "SEQUENCES_AT_ONCE": SEQUENCES_AT_ONCE,
        "BLOCK_R": block_r,
        "BLOCK_P": block_p,
    }
    segments = sequences * keys.heads * shape["ROW_BLOCKS"]
    descriptors = keys.descriptors(tile.block_n) if tile.descriptors else (None, None, None)
    with torch.cuda.device_of(q):
        split_kernel[(programs,)](
            q, keys.k, keys.v, *descriptors, out, log_sum, partial, partial_log_sum,
            arrivals.counters(segments, q.device) if tile.joins else None, keys.context_lens, keys.block_table,
            options.sinks, options.k_scale, options.v_scale, options.factor(head_dim), options.cap, options.window or 0,
            sequences,
            q.stride(0), q.stride(1), *keys.strides(keys.k), *keys.strides(keys.v), out.stride(0), out.stride(1),
            keys.block_table.stride(0), scale_stride(options.k_scale), scale_stride(options.v_scale),
            KEY_MAIN=main, KEY_TAIL=tail, PAGE_SIZE=keys.page_size, DESCRIPTORS=tile.descriptors,
            VALUES_ARE_KEYS=keys.values_are_keys, LIE_ALIKE=keys.lie_alike, CAPPED=options.softcap is not None,
            WEIGHT_SHIFT=softmax.weight_shift(q.dtype, keys.k.dtype), EDGE_N=tile.edge_n, JOINS=tile.joins, **shape,
            num_warps=tile.num_warps, num_stages=pipeline_stages(tile.num_stages), maxnreg=tile.registers,
            enable_fp_fusion=True,
        )  # fmt: skip
        if tile.joins:
            return
        combine_kernel[(programs, tile.block_m // block_r)](
            partial, partial_log_sum, out, log_sum, keys.context_lens, options.window or 0, sequences,
            out.stride(0), out.stride(1),
            **shape,
            num_warps=combine_warps(keys.value_dim), num_stages=3, enable_fp_fusion=True,
        )  # fmt: skip
