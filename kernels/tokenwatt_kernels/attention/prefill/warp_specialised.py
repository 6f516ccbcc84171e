"""Prefill attention for sm_90 whose warps divide the labour: one fetches keys and values, eight compute.

Shapes
    Tq, Tk tokens of all sequences in q and in k and v; Hq query heads, Hkv key/value heads, D head dimension
    G = Hq / Hkv query heads share a key/value head; B sequences, of q_len queries and kv_len keys each
    M query rows of one consumer (CONSUMER_ROWS), two consumers to a program; N keys of one step (BLOCK_N)
    query i of a sequence stands at position kv_len - q_len + i; causal rows see the keys up to their position

One program owns 2 * M rows of one query head of one sequence. Its steps walk the key tiles from the last to the first,
so that the tiles that need a mask come first and a single loop can leave them behind. A step of a consumer:

    start scores(step) = Q K(step)^T        both run on the tensor cores
    start acc += weights(step - 1) V(step - 1)
    wait for the scores, hand K back, softmax      while the second product still runs
    wait for acc, hand V back, rescale acc

K and V have a ring of NUM_BUFFERS buffers each. A buffer has a `full` barrier (the copy arrives, consumers wait) and an
`empty` barrier (both consumers arrive, the producer waits). `ring_slot` alone decides who waits for which phase.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from tokenwatt_kernels.attention.prefill.warp_specialised_tiles import (
    BLOCK_M,
    CAPABILITY,
    CONSUMER_ROWS,
    TILES,
    WarpSpecialisedTile,
)
from tokenwatt_kernels.attention.prefill.warp_specialised_tiles import shared_bytes as shared_bytes
from tokenwatt_kernels.dtypes import DTYPES

# What triton 3.6 and 3.9 call differently. Everything else in this file is spelled alike in both.
_copy_tile = getattr(tma, "async_load" if hasattr(tma, "async_load") else "async_copy_global_to_shared")
_sync_partition = getattr(gl, "barrier" if hasattr(gl, "barrier") else "thread_barrier")

_ROWS = gl.constexpr(CONSUMER_ROWS)
# Consumer 0 runs in the warps of the launch. Consumer 1 and the producer add these, with so many registers a thread.
NUM_WARPS = 4
_WORKER_WARPS = gl.constexpr([4, 1])
_WORKER_REGISTERS = gl.constexpr([240, 24])


@gluon.constexpr_function
def _product_layout(columns):
    """How a warpgroup holds a product of CONSUMER_ROWS x columns: each warp has 16 rows."""
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, columns, 16])


@gluon.constexpr_function
def _copy_layout(head_dim):
    """How a warpgroup copies rows of head_dim elements of 16 bits: each thread has 16 consecutive bytes."""
    return gl.BlockedLayout([1, 8], [256 // head_dim, head_dim // 8], [4, 1], [1, 0])


@gluon.jit
def ring_slot(step, NUM_BUFFERS: gl.constexpr):
    """Buffer of a step, and the parity of the phase in which its `full` barrier completes."""
    return step % NUM_BUFFERS, (step // NUM_BUFFERS) & 1


@gluon.jit
def count_steps(first_row, q_len, kv_len, CAUSAL: gl.constexpr, ROWS: gl.constexpr, BLOCK_N: gl.constexpr):
    """Key tiles up to the last key that any of ROWS rows sees; at least 1, so that step 0 needs no condition."""
    end = kv_len
    if CAUSAL:
        end = kv_len - q_len + min(first_row + ROWS, q_len)
    return max((max(end, 0) + BLOCK_N - 1) // BLOCK_N, 1)


@gluon.jit
def count_open_tiles(first_row, q_len, kv_len, CAUSAL: gl.constexpr, BLOCK_N: gl.constexpr):
    """Key tiles, from key 0 on, of which every row from first_row on sees every key: they need no mask."""
    end = kv_len
    if CAUSAL:
        end = min(kv_len - q_len + first_row + 1, kv_len)
    return max(end, 0) // BLOCK_N


@gluon.jit
def _fetch(desc, row, column, tile, full):
    mbarrier.expect(full, desc.block_type.nbytes)
    _copy_tile(desc, [row, column], full, tile)


@gluon.jit
def _refill(desc, row, column, ring, step, NUM_BUFFERS: gl.constexpr):
    """Fetch the tile of `step` as soon as both consumers have handed its buffer back."""
    tiles, full, empty = ring
    slot, parity = ring_slot(step, NUM_BUFFERS)
    # A new barrier passes for one whose phase of parity 1 is over: the first round finds its buffers empty.
    mbarrier.wait(empty.index(slot), parity ^ 1)
    _fetch(desc, row, column, tiles.index(slot), full.index(slot))


@gluon.jit
def _produce(
    q_desc, k_desc, v_desc, q_tiles, q_full, k_ring, v_ring, q_row, q_column, k_row, k_column, steps,
    BLOCK_N: gl.constexpr, NUM_BUFFERS: gl.constexpr,
):  # fmt: skip
    """Fetch Q once and every K and V tile, in the order in which the consumers hand buffers back."""
    for which in gl.static_range(2):
        _fetch(q_desc, q_row + which * _ROWS, q_column, q_tiles.index(which), q_full.index(which))
    row = k_row + (steps - 1) * BLOCK_N
    _refill(k_desc, row, k_column, k_ring, 0, NUM_BUFFERS)
    for step in range(1, steps):
        _refill(k_desc, row - BLOCK_N, k_column, k_ring, step, NUM_BUFFERS)
        _refill(v_desc, row, k_column, v_ring, step - 1, NUM_BUFFERS)
        row -= BLOCK_N
    _refill(v_desc, row, k_column, v_ring, steps - 1, NUM_BUFFERS)


@gluon.jit
def _start_scores(q_tile, k_ring, step, BLOCK_N: gl.constexpr, NUM_BUFFERS: gl.constexpr):
    """Q K^T of one step, still running: [M, N]."""
    tiles, full, _empty = k_ring
    slot, parity = ring_slot(step, NUM_BUFFERS)
    mbarrier.wait(full.index(slot), parity)
    ignored = gl.zeros([_ROWS, BLOCK_N], gl.float32, _product_layout(BLOCK_N))
    return warpgroup_mma(q_tile, tiles.index(slot).permute((1, 0)), ignored, use_acc=False, is_async=True)


@gluon.jit
def _start_output(acc, weights, v_ring, step, NUM_BUFFERS: gl.constexpr):
    """acc + weights V of one step, still running: [M, D]. The weights come from registers."""
    tiles, full, _empty = v_ring
    slot, parity = ring_slot(step, NUM_BUFFERS)
    mbarrier.wait(full.index(slot), parity)
    return warpgroup_mma(weights, tiles.index(slot), acc, is_async=True)


@gluon.jit
def _hand_back(ring, step, NUM_BUFFERS: gl.constexpr):
    _tiles, _full, empty = ring
    slot, _parity = ring_slot(step, NUM_BUFFERS)
    mbarrier.arrive(empty.index(slot), count=1)


@gluon.jit
def _hide(scores, last_key, CAUSAL: gl.constexpr):
    """Scores of keys beyond the last one that their row sees become -inf, whatever they were.

    Keys count from the first one of the tile. last_key is that of row 0; a causal row sees one more than the row above.
    """
    keys = gl.arange(0, scores.shape[1], gl.SliceLayout(0, scores.type.layout))
    last_keys = gl.full([_ROWS], last_key, gl.int32, gl.SliceLayout(1, scores.type.layout))
    if CAUSAL:
        last_keys += gl.arange(0, _ROWS, gl.SliceLayout(1, scores.type.layout))
    return gl.where(keys[None, :] <= last_keys[:, None], scores, float("-inf"))


@gluon.jit
def _softmax(scores, row_max, row_sum, scale_log2):
    """Weights of one tile relative to the running maximum, that maximum, the running sum, the factor for older sums."""
    new_max = gl.maximum(row_max, gl.max(scores, 1) * scale_log2)
    # A row that has seen no key yet has maximum -inf, and -inf minus itself is NaN.
    shift = gl.where(new_max == float("-inf"), 0.0, new_max)
    weights = gl.exp2(scores * scale_log2 - shift[:, None])
    rescale = gl.exp2(row_max - shift)
    return weights, new_max, row_sum * rescale + gl.sum(weights, 1), rescale


@gluon.jit
def _as_operand(weights, dtype: gl.constexpr, HEAD_DIM: gl.constexpr):
    """Weights as the second product reads them. In 32 bits they would not fit beside those that it is reading."""
    layout: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=_product_layout(HEAD_DIM), k_width=2)
    return gl.convert_layout(weights.to(dtype), layout)


@gluon.jit
def _clear_dead_rows(v_tile, live, cleared, WHICH: gl.constexpr, BLOCK_N: gl.constexpr, HEAD_DIM: gl.constexpr):
    """Zero the rows of a V tile from `live` on: they are another sequence's, and 0 * NaN would be NaN.

    Each consumer clears every second chunk; neither reads the tile before both are done.
    """
    CHUNK: gl.constexpr = 16
    layout: gl.constexpr = _copy_layout(HEAD_DIM)
    rows = gl.arange(0, CHUNK, gl.SliceLayout(1, layout))
    for first in gl.static_range(WHICH * CHUNK, BLOCK_N, 2 * CHUNK):
        if first + CHUNK > live:
            chunk = v_tile.slice(first, CHUNK)
            chunk.store(gl.where((first + rows < live)[:, None], chunk.load(layout), 0.0))
    # The tensor cores read through the asynchronous proxy: it must see the zeros of all threads before the arrival.
    fence_async_shared()
    _sync_partition()
    mbarrier.arrive(cleared, count=1)
    mbarrier.wait(cleared, 0)


@gluon.jit
def _advance(
    acc, weights, row_max, row_sum, first_step, last_step, steps, q_tile, k_ring, v_ring, last_key, scale_log2,
    MASKED: gl.constexpr, CAUSAL: gl.constexpr, HEAD_DIM: gl.constexpr, BLOCK_N: gl.constexpr,
    NUM_BUFFERS: gl.constexpr,
):  # fmt: skip
    """Steps first_step..last_step-1: scores and weights of the step, output of the step before it."""
    row_layout: gl.constexpr = gl.SliceLayout(1, acc.type.layout)
    for step in range(first_step, last_step):
        running_scores = _start_scores(q_tile, k_ring, step, BLOCK_N, NUM_BUFFERS)
        running_acc = _start_output(acc, weights, v_ring, step - 1, NUM_BUFFERS)
        # All but the youngest product are over: the scores are there, the output is still being computed.
        scores = warpgroup_mma_wait(1, [running_scores])
        _hand_back(k_ring, step, NUM_BUFFERS)
        if MASKED:
            scores = _hide(scores, last_key - (steps - 1 - step) * BLOCK_N, CAUSAL)
        new_weights, row_max, row_sum, rescale = _softmax(scores, row_max, row_sum, scale_log2)
        weights = _as_operand(new_weights, weights.dtype, HEAD_DIM)
        acc = warpgroup_mma_wait(0, [running_acc])
        _hand_back(v_ring, step - 1, NUM_BUFFERS)
        acc = acc * gl.convert_layout(rescale, row_layout)[:, None]
    return acc, weights, row_max, row_sum


@gluon.jit
def _store_output(acc, row_sum, staging, out_ptr, out_stride_t, live_rows, HEAD_DIM: gl.constexpr):
    """Divide and write [M, D]; rows from live_rows on belong to the next sequence, which forbids a TMA store."""
    total = gl.convert_layout(row_sum, gl.SliceLayout(1, acc.type.layout))[:, None]
    out = gl.where(total == 0.0, 0.0, acc * (1.0 / total))
    # Through shared memory, because there a thread finds 16 consecutive bytes of a row.
    staging.store(out.to(staging.dtype))
    layout: gl.constexpr = _copy_layout(HEAD_DIM)
    rows = gl.arange(0, _ROWS, gl.SliceLayout(1, layout))
    dims = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, layout))
    pointers = out_ptr + rows[:, None] * out_stride_t + dims[None, :]
    gl.store(pointers, staging.load(layout), mask=(rows < live_rows)[:, None])


@gluon.jit
def _store_lse(row_max, row_sum, lse_ptr, lse_stride_t, live_rows):
    """Natural logarithm of the sum of exponentials; -inf + log2(0) is the -inf of a row that saw no key."""
    rows = gl.arange(0, _ROWS, row_max.type.layout)
    lse = (row_max + gl.log2(row_sum)) * 0.6931471805599453
    gl.store(lse_ptr + rows * lse_stride_t, lse, mask=rows < live_rows)


@gluon.jit
def _consume(
    q_tiles, q_full, k_ring, v_ring, cleared, out_ptr, lse_ptr, out_stride_t, lse_stride_t, first_row, q_len, kv_len,
    steps, scale_log2, WHICH: gl.constexpr, CAUSAL: gl.constexpr, HAS_LSE: gl.constexpr, HEAD_DIM: gl.constexpr,
    BLOCK_N: gl.constexpr, NUM_BUFFERS: gl.constexpr,
):  # fmt: skip
    """Attention of rows first_row..first_row+M-1 of a sequence; out_ptr and lse_ptr point at the first of them."""
    row_layout: gl.constexpr = gl.SliceLayout(1, _product_layout(BLOCK_N))
    q_tile = q_tiles.index(WHICH)
    last_key = kv_len - q_len + first_row if CAUSAL else kv_len - 1

    mbarrier.wait(q_full.index(WHICH), 0)
    scores = warpgroup_mma_wait(0, [_start_scores(q_tile, k_ring, 0, BLOCK_N, NUM_BUFFERS)])
    _hand_back(k_ring, 0, NUM_BUFFERS)
    # Only the tile of step 0 can reach beyond the sequence. Cleared here, where few registers are in use.
    live_keys = kv_len - (steps - 1) * BLOCK_N
    if live_keys < BLOCK_N:
        v_tiles, v_full, _v_empty = v_ring
        mbarrier.wait(v_full.index(0), 0)
        _clear_dead_rows(v_tiles.index(0), live_keys, cleared, WHICH, BLOCK_N, HEAD_DIM)
    scores = _hide(scores, last_key - (steps - 1) * BLOCK_N, CAUSAL)
    row_max = gl.full([_ROWS], float("-inf"), gl.float32, row_layout)
    row_sum = gl.zeros([_ROWS], gl.float32, row_layout)
    weights, row_max, row_sum, _rescale = _softmax(scores, row_max, row_sum, scale_log2)
    weights = _as_operand(weights, q_tile.dtype, HEAD_DIM)
    acc = gl.zeros([_ROWS, HEAD_DIM], gl.float32, _product_layout(HEAD_DIM))

    if CAUSAL and HEAD_DIM == 256:
        # A second loop spills here, and beside products this wide a mask costs little.
        open_from = steps
    else:
        open_from = max(steps - count_open_tiles(first_row, q_len, kv_len, CAUSAL, BLOCK_N), 1)
    acc, weights, row_max, row_sum = _advance(
        acc, weights, row_max, row_sum, 1, open_from, steps, q_tile, k_ring, v_ring, last_key, scale_log2,
        True, CAUSAL, HEAD_DIM, BLOCK_N, NUM_BUFFERS,
    )  # fmt: skip
    acc, weights, row_max, row_sum = _advance(
        acc, weights, row_max, row_sum, open_from, steps, steps, q_tile, k_ring, v_ring, last_key, scale_log2,
        False, CAUSAL, HEAD_DIM, BLOCK_N, NUM_BUFFERS,
    )  # fmt: skip
    acc = warpgroup_mma_wait(0, [_start_output(acc, weights, v_ring, steps - 1, NUM_BUFFERS)])
    # The last scores are long computed, so the Q tile is free.
    _store_output(acc, row_sum, q_tile, out_ptr, out_stride_t, q_len - first_row, HEAD_DIM)
    if HAS_LSE:
        _store_lse(row_max, row_sum, lse_ptr, lse_stride_t, q_len - first_row)


@gluon.jit
def _allocate_barriers(COUNT: gl.constexpr, arrivals: gl.constexpr):
    barriers = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(COUNT):
        mbarrier.init(barriers.index(i), count=arrivals)
    return barriers


@gluon.jit
def _allocate_ring(desc, BLOCK_N: gl.constexpr, HEAD_DIM: gl.constexpr, NUM_BUFFERS: gl.constexpr):
    """Buffers; their `full` barriers, where the copy arrives; their `empty` barriers, where both consumers arrive."""
    tiles = gl.allocate_shared_memory(desc.dtype, [NUM_BUFFERS, BLOCK_N, HEAD_DIM], desc.layout)
    return tiles, _allocate_barriers(NUM_BUFFERS, 1), _allocate_barriers(NUM_BUFFERS, 2)


@gluon.jit
def warp_specialised_kernel(
    q_desc, k_desc, v_desc, out_ptr, lse_ptr, cu_seqlens_q_ptr, cu_seqlens_k_ptr, scale_log2,
    out_stride_t, out_stride_h, lse_stride_t, lse_stride_h,
    GROUP: gl.constexpr, CAUSAL: gl.constexpr, HAS_LSE: gl.constexpr, HEAD_DIM: gl.constexpr, BLOCK_N: gl.constexpr,
    NUM_BUFFERS: gl.constexpr,
):  # fmt: skip
    """Grid: (Hq, query tiles of the longest sequence, sequences)."""
    head = gl.program_id(0)
    tile = gl.program_id(1)
    if CAUSAL:
        # The rows with the most keys start first, over all heads, so that the last wave is short.
        tile = gl.num_programs(1) - 1 - tile
    first_row = tile * (2 * _ROWS)
    q_start = gl.load(cu_seqlens_q_ptr + gl.program_id(2))
    q_len = gl.load(cu_seqlens_q_ptr + gl.program_id(2) + 1) - q_start
    k_start = gl.load(cu_seqlens_k_ptr + gl.program_id(2))
    kv_len = gl.load(cu_seqlens_k_ptr + gl.program_id(2) + 1) - k_start
    # Before the warps part, so no barrier waits for one that left.
    if first_row >= q_len:
        return
    steps = count_steps(first_row, q_len, kv_len, CAUSAL, 2 * _ROWS, BLOCK_N)

    q_row = q_start + first_row
    out_ptr += q_row.to(gl.int64) * out_stride_t + head * out_stride_h
    lse_ptr += q_row.to(gl.int64) * lse_stride_t + head * lse_stride_h
    second_out_ptr = out_ptr + _ROWS * out_stride_t
    second_lse_ptr = lse_ptr + _ROWS * lse_stride_t

    q_tiles = gl.allocate_shared_memory(q_desc.dtype, [2, _ROWS, HEAD_DIM], q_desc.layout)
    q_full = _allocate_barriers(2, 1)
    k_ring = _allocate_ring(k_desc, BLOCK_N, HEAD_DIM, NUM_BUFFERS)
    v_ring = _allocate_ring(v_desc, BLOCK_N, HEAD_DIM, NUM_BUFFERS)
    cleared = _allocate_barriers(1, 2).index(0)
    # New barriers must be visible to the asynchronous proxy; the fork below makes them visible to the other warps.
    fence_async_shared()

    gl.warp_specialize(
        [
            (
                _consume,
                (
                    q_tiles, q_full, k_ring, v_ring, cleared, out_ptr, lse_ptr, out_stride_t, lse_stride_t,
                    first_row, q_len, kv_len, steps, scale_log2,
                    0, CAUSAL, HAS_LSE, HEAD_DIM, BLOCK_N, NUM_BUFFERS,
                ),
            ),
            (
                _consume,
                (
                    q_tiles, q_full, k_ring, v_ring, cleared, second_out_ptr, second_lse_ptr, out_stride_t,
                    lse_stride_t, first_row + _ROWS, q_len, kv_len, steps, scale_log2,
                    1, CAUSAL, HAS_LSE, HEAD_DIM, BLOCK_N, NUM_BUFFERS,
                ),
            ),
            (
                _produce,
                (
                    q_desc, k_desc, v_desc, q_tiles, q_full, k_ring, v_ring,
                    q_row, head * HEAD_DIM, k_start, head // GROUP * HEAD_DIM, steps, BLOCK_N, NUM_BUFFERS,
                ),
            ),
        ],
        _WORKER_WARPS,
        _WORKER_REGISTERS,
    )  # fmt: skip


def can_run(q: Tensor, k: Tensor, v: Tensor, capability: int) -> bool:
    """Whether `launch` takes q [Tq, Hq, D] and k, v [Tk, Hkv, D] on a GPU of `capability` (90 for sm_90)."""
    return (
        capability == CAPABILITY
        and q.dtype in (torch.bfloat16, torch.float16)
        and q.dtype == k.dtype == v.dtype
        and q.shape[2] in TILES
        and q.shape[2] == k.shape[2]
        and k.shape == v.shape
        and q.shape[1] % k.shape[1] == 0
        and all(_has_descriptor(tensor) for tensor in (q, k, v))
    )


def _has_descriptor(tensor: Tensor) -> bool:
    """Whether a TMA descriptor can see [T, H, D] as a matrix [T, H * D]: heads side by side, rows 16-byte aligned."""
    _tokens, heads, head_dim = tensor.shape
    row_bytes = tensor.stride(0) * tensor.element_size()
    return (
        tensor.stride(2) == 1
        and (heads == 1 or tensor.stride(1) == head_dim)
        and tensor.stride(0) >= heads * head_dim
        and row_bytes % 16 == 0
        and tensor.data_ptr() % 16 == 0
    )


def launch(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, scale: float,
    causal: bool, out: Tensor, lse: Tensor | None, tile: WarpSpecialisedTile,
) -> None:  # fmt: skip
    """Write the attention of checked arguments, for which `can_run` holds, into out [Tq, Hq, D] and lse fp32 [Tq, Hq].

    cu_seqlens_q and cu_seqlens_k are int32 [B + 1]; scale must be > 0; the last axis of out must be contiguous.
    """
    tokens, query_heads, head_dim = q.shape
    sequences = cu_seqlens_q.numel() - 1
    if tokens == 0 or sequences == 0 or max_seqlen_q == 0:
        return
    if k.shape[0] == 0:  # no descriptor describes an empty tensor
        out.zero_()
        if lse is not None:
            lse.fill_(-math.inf)
        return
    grid = (query_heads, triton.cdiv(max_seqlen_q, BLOCK_M), sequences)
    lse_strides = (0, 0) if lse is None else lse.stride()
    with torch.cuda.device_of(q):
        warp_specialised_kernel[grid](
            _descriptor(q, CONSUMER_ROWS), _descriptor(k, tile.block_n), _descriptor(v, tile.block_n), out,
            # No partition takes None.
            out if lse is None else lse, cu_seqlens_q, cu_seqlens_k, scale * math.log2(math.e),
            *out.stride()[:2], *lse_strides,
            GROUP=query_heads // k.shape[1], CAUSAL=causal, HAS_LSE=lse is not None, HEAD_DIM=head_dim,
            BLOCK_N=tile.block_n, NUM_BUFFERS=tile.num_buffers, num_warps=NUM_WARPS, enable_fp_fusion=True,
        )  # fmt: skip


def _descriptor(tensor: Tensor, rows: int) -> TensorDescriptor:
    """[T, H, D] as a matrix [T, H * D], read in blocks of `rows` tokens of one head."""
    tokens, heads, head_dim = tensor.shape
    return TensorDescriptor(
        tensor,
        shape=[tokens, heads * head_dim],
        strides=[tensor.stride(0), 1],
        block_shape=[rows, head_dim],
        layout=_shared_layout(rows, head_dim),
    )


def _shared_layout(rows: int, head_dim: int) -> gl.NVMMASharedLayout:
    """How a tile of 16-bit elements, of either type, lies in shared memory."""
    return gl.NVMMASharedLayout.get_default_for([rows, head_dim], gl.bfloat16)


def compile_inputs(
    dtype_name: str, head_dim: int, causal: bool, with_lse: bool, tile: WarpSpecialisedTile, group: int = 4
) -> tuple[dict[str, str], dict[str, Any], frozenset[str]]:
    """What a compiler needs to know where no GPU can tell it: types, constants, arguments that are multiples of 16.

    In the form of `compiling.Specimen`; num_warps is NUM_WARPS.
    """
    element = DTYPES[dtype_name].triton_name

    def descriptor(rows: int) -> str:
        return f"tensordesc<{element}[{rows}, {head_dim}],{_shared_layout(rows, head_dim)!r}>"

    descriptors = {
        "q_desc": descriptor(CONSUMER_ROWS),
        "k_desc": descriptor(tile.block_n),
        "v_desc": descriptor(tile.block_n),
    }
    pointers = {
        "out_ptr": f"*{element}",
        "lse_ptr": "*fp32" if with_lse else f"*{element}",
        "cu_seqlens_q_ptr": "*i32",
        "cu_seqlens_k_ptr": "*i32",
    }
    out_strides = dict.fromkeys(("out_stride_t", "out_stride_h"), "i32")
    lse_strides = dict.fromkeys(("lse_stride_t", "lse_stride_h"), "i32")
    constants = {
        "GROUP": group,
        "CAUSAL": causal,
        "HAS_LSE": with_lse,
        "HEAD_DIM": head_dim,
        "BLOCK_N": tile.block_n,
        "NUM_BUFFERS": tile.num_buffers,
    }
    signature = {**descriptors, **pointers, "scale_log2": "fp32", **out_strides, **lse_strides}
    return signature, constants, frozenset((*pointers, *out_strides))
