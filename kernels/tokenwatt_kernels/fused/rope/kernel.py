"""Rotary embedding of queries and keys, keys and values appended to pages: one launch, each element moved once.

Shapes
    T tokens, Hq query heads, Hkv key/value heads, D and Dv their dimensions
    H heads of a program (BLOCK_HEADS); N pairs of a head that turn (PAIRS; BLOCK_PAIRS with padding)

A program has some heads of the queries, of the keys or of the values of one token. A head is held as the first and the
second elements of its pairs, [H, N] each, and the rest that does not turn, [H, D - 2 N]. All is computed in fp32 and
rounded once, to the dtype of the queries or of the cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwatt_kernels import following as following
from tokenwatt_kernels.attention.options import scale_stride
from tokenwatt_kernels.fused.rope.operands import Append, Rotation
from tokenwatt_kernels.fused.rope.tiles import RopeTile, block

MAX_REGISTERS = 168
"""What a thread may take. Left alone, the compiler spills some to make room for programs that memory does not need."""


@triton.jit
def _pair_places(PAIRS: tl.constexpr, BLOCK_PAIRS: tl.constexpr, INTERLEAVED: tl.constexpr):
    """Where in a head the elements of the pairs are, in the order in which they are loaded, and which are real."""
    if INTERLEAVED:
        places = tl.arange(0, 2 * BLOCK_PAIRS)
        is_real = places < 2 * PAIRS
    else:
        places = tl.arange(0, BLOCK_PAIRS)
        is_real = places < PAIRS
    return places, is_real


@triton.jit
def _load_heads(
    ptr, rows, is_head, DIM: tl.constexpr, PAIRS: tl.constexpr, BLOCK_PAIRS: tl.constexpr, BLOCK_REST: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """Heads that begin at `rows` [H], in fp32: first and second elements of the pairs, and the rest."""
    places, is_real = _pair_places(PAIRS, BLOCK_PAIRS, INTERLEAVED)
    mask = is_head[:, None] & is_real[None, :]
    ptrs = ptr + rows[:, None] + places[None, :]
    if INTERLEAVED:
        pairs = tl.load(ptrs, mask=mask, other=0.0).to(tl.float32)
        first, second = tl.split(tl.reshape(pairs, [rows.shape[0], BLOCK_PAIRS, 2]))
    else:
        first = tl.load(ptrs, mask=mask, other=0.0).to(tl.float32)
        second = tl.load(ptrs + PAIRS, mask=mask, other=0.0).to(tl.float32)
    rest = first
    if BLOCK_REST > 0:
        tail = tl.arange(0, BLOCK_REST)
        is_rest = is_head[:, None] & (tail < DIM - 2 * PAIRS)[None, :]
        rest = tl.load(ptr + rows[:, None] + 2 * PAIRS + tail[None, :], mask=is_rest, other=0.0).to(tl.float32)
    return first, second, rest


@triton.jit
def _store_heads(
    ptr, rows, is_head, first, second, rest, DIM: tl.constexpr, PAIRS: tl.constexpr, BLOCK_PAIRS: tl.constexpr,
    BLOCK_REST: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    places, is_real = _pair_places(PAIRS, BLOCK_PAIRS, INTERLEAVED)
    kind = ptr.dtype.element_ty
    mask = is_head[:, None] & is_real[None, :]
    ptrs = ptr + rows[:, None] + places[None, :]
    if INTERLEAVED:
        pairs = tl.reshape(tl.join(first, second), [rows.shape[0], 2 * BLOCK_PAIRS])
        tl.store(ptrs, pairs.to(kind), mask=mask)
    else:
        tl.store(ptrs, first.to(kind), mask=mask)
        tl.store(ptrs + PAIRS, second.to(kind), mask=mask)
    if BLOCK_REST > 0:
        tail = tl.arange(0, BLOCK_REST)
        is_rest = is_head[:, None] & (tail < DIM - 2 * PAIRS)[None, :]
        tl.store(ptr + rows[:, None] + 2 * PAIRS + tail[None, :], rest.to(kind), mask=is_rest)


@triton.jit
def _rotated_heads(
    ptr, rows, is_head, weight_ptr, cos, sin, eps, UNIT_OFFSET: tl.constexpr, DIM: tl.constexpr, PAIRS: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr, BLOCK_REST: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """Heads that begin at `rows`, normed if there is a weight, and turned by cos and sin [N]."""
    first, second, rest = _load_heads(ptr, rows, is_head, DIM, PAIRS, BLOCK_PAIRS, BLOCK_REST, INTERLEAVED)
    if weight_ptr is not None:
        squares = tl.sum(first * first + second * second, 1)
        if BLOCK_REST > 0:
            squares += tl.sum(rest * rest, 1)
        inverse = tl.rsqrt(squares / DIM + eps)[:, None]
        at_zero = tl.zeros([1], tl.int32)
        first_weight, second_weight, rest_weight = _load_heads(
            weight_ptr, at_zero, at_zero == 0, DIM, PAIRS, BLOCK_PAIRS, BLOCK_REST, INTERLEAVED
        )
        offset = 1.0 if UNIT_OFFSET else 0.0
        first *= inverse * (first_weight + offset)
        second *= inverse * (second_weight + offset)
        if BLOCK_REST > 0:
            rest *= inverse * (rest_weight + offset)
    turned_first = first * cos[None, :] - second * sin[None, :]
    turned_second = second * cos[None, :] + first * sin[None, :]
    return turned_first, turned_second, rest


@triton.jit
def _cache_rows(slot, head, stride_p, stride_t, stride_h, PAGE_SIZE: tl.constexpr):
    """Where the heads of a slot begin."""
    return slot // PAGE_SIZE * stride_p + slot % PAGE_SIZE * stride_t + head * stride_h


@triton.jit
def _inverse_scale(scale_ptr, head, is_head, stride):
    """[H, 1]"""
    if scale_ptr is None:
        inverse = tl.full([head.shape[0]], 1.0, tl.float32)
    else:
        inverse = 1.0 / tl.load(scale_ptr + head * stride, mask=is_head, other=1.0)
    return inverse[:, None]


@triton.jit
def rope_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, k_out_ptr, v_out_ptr, k_cache_ptr, v_cache_ptr, cos_ptr, sin_ptr, positions_ptr,
    slots_ptr, q_weight_ptr, k_weight_ptr, k_scale_ptr, v_scale_ptr, eps,
    q_stride_t, q_stride_h, k_stride_t, k_stride_h, v_stride_t, v_stride_h, out_stride_t, out_stride_h,
    k_out_stride_t, k_out_stride_h, v_out_stride_t, v_out_stride_h, k_cache_stride_p, k_cache_stride_t,
    k_cache_stride_h, v_cache_stride_p, v_cache_stride_t, v_cache_stride_h, cos_stride_p, sin_stride_p,
    k_scale_stride, v_scale_stride,
    Q_HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PAIRS: tl.constexpr,
    PAGE_SIZE: tl.constexpr, INTERLEAVED: tl.constexpr, UNIT_OFFSET: tl.constexpr, BLOCK_HEADS: tl.constexpr,
    BLOCK_KV_HEADS: tl.constexpr, BLOCK_VALUES: tl.constexpr, BLOCK_PAIRS: tl.constexpr, BLOCK_REST: tl.constexpr,
    BLOCK_VALUE: tl.constexpr, GROUPS: tl.constexpr, FOLLOWS: tl.constexpr,
):  # fmt: skip
    """Grid: (T * GROUPS,). The groups of a token are those of its query heads, then of its keys, then of its values."""
    following.begin(FOLLOWS)
    Q_GROUPS: tl.constexpr = (Q_HEADS + BLOCK_HEADS - 1) // BLOCK_HEADS
    KV_GROUPS: tl.constexpr = (KV_HEADS + BLOCK_KV_HEADS - 1) // BLOCK_KV_HEADS
    token = (tl.program_id(0) // GROUPS).to(tl.int64)
    group = tl.program_id(0) % GROUPS
    if group < Q_GROUPS + KV_GROUPS:
        position = tl.load(positions_ptr + token).to(tl.int64)
        pair = tl.arange(0, BLOCK_PAIRS)
        cos = tl.load(cos_ptr + position * cos_stride_p + pair, mask=pair < PAIRS, other=0.0)
        sin = tl.load(sin_ptr + position * sin_stride_p + pair, mask=pair < PAIRS, other=0.0)
        if group < Q_GROUPS:
            head = group * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
            is_head = head < Q_HEADS
            first, second, rest = _rotated_heads(
                q_ptr, token * q_stride_t + head * q_stride_h, is_head, q_weight_ptr, cos, sin, eps,
                UNIT_OFFSET, DIM, PAIRS, BLOCK_PAIRS, BLOCK_REST, INTERLEAVED,
            )  # fmt: skip
            _store_heads(
                out_ptr, token * out_stride_t + head * out_stride_h, is_head, first, second, rest,
                DIM, PAIRS, BLOCK_PAIRS, BLOCK_REST, INTERLEAVED,
            )  # fmt: skip
        else:
            key = (group - Q_GROUPS) * BLOCK_KV_HEADS + tl.arange(0, BLOCK_KV_HEADS)
            is_key = key < KV_HEADS
            k_first, k_second, k_rest = _rotated_heads(
                k_ptr, token * k_stride_t + key * k_stride_h, is_key, k_weight_ptr, cos, sin, eps,
                UNIT_OFFSET, DIM, PAIRS, BLOCK_PAIRS, BLOCK_REST, INTERLEAVED,
            )  # fmt: skip
            if k_out_ptr is not None:
                _store_heads(
                    k_out_ptr, token * k_out_stride_t + key * k_out_stride_h, is_key, k_first, k_second, k_rest,
                    DIM, PAIRS, BLOCK_PAIRS, BLOCK_REST, INTERLEAVED,
                )  # fmt: skip
            if k_cache_ptr is not None:
                slot = tl.load(slots_ptr + token).to(tl.int64)
                if slot >= 0:
                    inverse = _inverse_scale(k_scale_ptr, key, is_key, k_scale_stride)
                    rows = _cache_rows(slot, key, k_cache_stride_p, k_cache_stride_t, k_cache_stride_h, PAGE_SIZE)
                    _store_heads(
                        k_cache_ptr, rows, is_key, k_first * inverse, k_second * inverse, k_rest * inverse,
                        DIM, PAIRS, BLOCK_PAIRS, BLOCK_REST, INTERLEAVED,
                    )  # fmt: skip
    else:
        value = (group - Q_GROUPS - KV_GROUPS) * BLOCK_VALUES + tl.arange(0, BLOCK_VALUES)
        is_value = value < KV_HEADS
        dims = tl.arange(0, BLOCK_VALUE)
        is_real = is_value[:, None] & (dims < VALUE_DIM)[None, :]
        v_ptrs = v_ptr + (token * v_stride_t + value * v_stride_h)[:, None] + dims[None, :]
        v = tl.load(v_ptrs, mask=is_real, other=0.0)
        if v_out_ptr is not None:
            out_rows = token * v_out_stride_t + value * v_out_stride_h
            tl.store(v_out_ptr + out_rows[:, None] + dims[None, :], v, mask=is_real)
        if v_cache_ptr is not None:
            slot = tl.load(slots_ptr + token).to(tl.int64)
            if slot >= 0:
                scaled = v.to(tl.float32) * _inverse_scale(v_scale_ptr, value, is_value, v_scale_stride)
                rows = _cache_rows(slot, value, v_cache_stride_p, v_cache_stride_t, v_cache_stride_h, PAGE_SIZE)
                v_cache_ptrs = v_cache_ptr + rows[:, None] + dims[None, :]
                tl.store(v_cache_ptrs, scaled.to(v_cache_ptr.dtype.element_ty), mask=is_real)


def blocks(
    query_heads: int, kv_heads: int, dim: int, value_dim: int, pairs: int, *, appends: bool, tile: RopeTile
) -> dict[str, int]:
    """The compile-time sizes of a launch. appends: whether keys and values go anywhere."""
    queries_at_once = tile.heads_of(dim, query_heads)
    keys_at_once, values_at_once = tile.heads_of(dim, kv_heads), tile.heads_of(value_dim, kv_heads)
    kv_groups = triton.cdiv(kv_heads, keys_at_once) + triton.cdiv(kv_heads, values_at_once)
    return {
        "Q_HEADS": query_heads,
        "KV_HEADS": kv_heads,
        "DIM": dim,
        "VALUE_DIM": value_dim,
        "PAIRS": pairs,
        "BLOCK_HEADS": queries_at_once,
        "BLOCK_KV_HEADS": keys_at_once,
        "BLOCK_VALUES": values_at_once,
        "BLOCK_PAIRS": block(pairs),
        "BLOCK_REST": block(dim - 2 * pairs) if dim > 2 * pairs else 0,
        "BLOCK_VALUE": block(value_dim),
        "GROUPS": triton.cdiv(query_heads, queries_at_once) + kv_groups * appends,
    }


def launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotation: Rotation,
    append: Append | None,
    out: Tensor,
    k_out: Tensor | None,
    v_out: Tensor | None,
    tile: RopeTile,
) -> None:
    """Write the rotated queries of checked arguments into out, keys and values into what is not None of the rest."""
    tokens, query_heads, dim = q.shape
    if tokens == 0:
        return
    appends = append is not None or k_out is not None or v_out is not None
    sizes = blocks(
        query_heads, k.shape[1], dim, v.shape[2], rotation.cos.shape[1], appends=appends, tile=tile
    )  # fmt: skip
    k_cache, v_cache, slots, k_scale, v_scale = (
        (None,) * 5
        if append is None
        else (append.k_cache, append.v_cache, append.slots, append.k_scale, append.v_scale)
    )
    with torch.cuda.device_of(q):
        rope_kernel[(tokens * sizes["GROUPS"],)](
            q, k, v, out, k_out, v_out, k_cache, v_cache, rotation.cos, rotation.sin, rotation.positions,
            slots, rotation.q_weight, rotation.k_weight, k_scale, v_scale, rotation.eps,
            *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *out.stride()[:2],
            *_strides(k_out, 2), *_strides(v_out, 2), *_strides(k_cache, 3), *_strides(v_cache, 3),
            rotation.cos.stride(0), rotation.sin.stride(0), scale_stride(k_scale), scale_stride(v_scale),
            PAGE_SIZE=1 if k_cache is None else k_cache.shape[1], INTERLEAVED=rotation.interleaved,
            UNIT_OFFSET=rotation.unit_offset, **sizes, **following.options(q.device),
            num_warps=tile.num_warps, maxnreg=MAX_REGISTERS, enable_fp_fusion=True,
        )  # fmt: skip


def _strides(tensor: Tensor | None, count: int) -> tuple[int, ...]:
    return (0,) * count if tensor is None else tensor.stride()[:count]
