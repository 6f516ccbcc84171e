"""Routing on the device: the k best experts of every token, their weights, and all rows sorted by expert.

Shapes
    T tokens, E experts (BLOCK_E: the next power of two), k chosen ones (BLOCK_K), P programs
    a program owns `steps` tiles of BLOCK_T tokens that follow each other

Sorting is counting. Each program numbers its rows within their expert, and says how many it has of each expert;
`scan_kernel` turns these counts into first numbers, and `place_kernel` adds both to where the expert begins. Nothing
depends on which program runs first, so the order is the same in every run, and rows of one expert keep theirs. Few
tokens are sorted by one program in the same launch. Grids follow from T, k and E alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwatt_kernels.moe.route import reference
from tokenwatt_kernels.moe.route.options import Choice
from tokenwatt_kernels.moe.route.tiles import RouteTile, block_e
from tokenwatt_kernels.targets import REGISTERS_PER_THREAD

LOG2_E = tl.constexpr(math.log2(math.e))
SMALLEST_SUM = tl.constexpr(reference.SMALLEST_SUM)
LEAST_KEY = tl.constexpr(-(2**63))
INDEX_MASK = tl.constexpr(2**32 - 1)
COUNTS_AT_ONCE = 8192  # that the scan holds
ROWS_AT_ONCE = 1024  # that a placing program holds
SCAN_WARPS, PLACE_WARPS = 8, 4


@triton.jit
def _keys(values, columns, BLOCK: tl.constexpr):
    """int64 numbers in the order of fp32 `values`, equal ones in that of falling columns; all above LEAST_KEY.

    A NaN is a number like any other here: the largest, or the smallest where its sign is set.
    """
    bits = tl.where(values == 0.0, 0.0, values).to(tl.int32, bitcast=True)  # one zero
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (bits.to(tl.int64) << 32) | (BLOCK - columns).to(tl.int64)


@triton.jit
def _in_top_groups(ranked, GROUPS: tl.constexpr, TOP_GROUPS: tl.constexpr, BLOCK_T: tl.constexpr, E: tl.constexpr):
    """Scores [T, E] with those outside of the TOP_GROUPS best groups at -inf."""
    SIZE: tl.constexpr = E // GROUPS
    grouped = tl.reshape(ranked, [BLOCK_T, GROUPS, SIZE])
    members = tl.arange(0, SIZE)[None, None, :]
    best = tl.max(grouped, 2, keep_dims=True)
    first = tl.min(tl.where(grouped == best, members, SIZE), 2, keep_dims=True)
    second = tl.max(tl.where(members == first, float("-inf"), grouped), 2, keep_dims=True)
    groups = tl.arange(0, GROUPS)
    keys = _keys(tl.reshape(best + second, [BLOCK_T, GROUPS]), groups[None, :], GROUPS)
    stays = tl.zeros([BLOCK_T, GROUPS], tl.int32)
    for _ in range(TOP_GROUPS):
        is_best = keys == tl.max(keys, 1, keep_dims=True)
        stays = tl.where(is_best, 1, stays)
        keys = tl.where(is_best, LEAST_KEY, keys)
    grouped = tl.where(stays[:, :, None] == 1, grouped, float("-inf"))
    return tl.reshape(grouped, [BLOCK_T, E])


@triton.jit
def _store_offsets(offsets_ptr, counts, columns, EXPERTS: tl.constexpr):
    ends = tl.cumsum(counts, 0)
    tl.store(offsets_ptr + 1 + columns, ends, mask=columns < EXPERTS)
    tl.store(offsets_ptr + columns, columns * 0, mask=columns == 0)


@triton.jit
def _place(
    first, rows, tokens_per_program, experts_ptr, before_ptr, offsets_ptr, order_ptr, inverse_ptr,
    EXPERTS: tl.constexpr, TOP_K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Put BLOCK rows where they belong; until then `inverse` holds their number among the program's of one expert."""
    row = first + tl.arange(0, BLOCK)
    is_row = row < rows
    expert = tl.load(experts_ptr + row, mask=is_row, other=0)
    program = row // TOP_K // tokens_per_program
    place = tl.load(inverse_ptr + row, mask=is_row, other=0)
    place += tl.load(before_ptr + program * EXPERTS + expert, mask=is_row, other=0)
    place += tl.load(offsets_ptr + expert, mask=is_row, other=0)
    tl.store(inverse_ptr + row, place, mask=is_row)
    tl.store(order_ptr + place, row, mask=is_row)


@triton.jit(do_not_specialize=["tokens", "steps"])
def choose_kernel(
    logits_ptr, bias_ptr, weights_ptr, experts_ptr, order_ptr, inverse_ptr, offsets_ptr, counts_ptr,
    tokens, steps, scale, logits_stride_t,
    EXPERTS: tl.constexpr, TOP_K: tl.constexpr, SIGMOID: tl.constexpr, RENORMALIZE: tl.constexpr,
    GROUPS: tl.constexpr, TOP_GROUPS: tl.constexpr, ALONE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr, ROWS_AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Grid: (P,). counts: [P, E] int32. An only program (ALONE) goes on to offsets and places."""
    program = tl.program_id(0)
    columns = tl.arange(0, BLOCK_E)
    slots = tl.arange(0, BLOCK_K)
    is_expert = columns < EXPERTS
    is_slot = slots < TOP_K
    counts = tl.zeros([BLOCK_E], tl.int32)
    for step in range(steps):
        token = (program * steps + step) * BLOCK_T + tl.arange(0, BLOCK_T)
        is_token = token < tokens
        logits_ptrs = logits_ptr + token.to(tl.int64)[:, None] * logits_stride_t + columns[None, :]
        scores = tl.load(logits_ptrs, mask=is_token[:, None] & is_expert[None, :], other=float("-inf")).to(tl.float32)
        if SIGMOID:
            scores = tl.div_rn(1.0, 1.0 + tl.exp2(-scores * LOG2_E))
        ranked = scores
        if bias_ptr is not None:
            ranked += tl.load(bias_ptr + columns, mask=is_expert, other=0.0)[None, :]
        if GROUPS > 1:
            if BLOCK_E > EXPERTS:  # then the tile has more groups of that size, which must not be among the best
                ranked = tl.where(is_expert[None, :], ranked, float("-inf"))
            ranked = _in_top_groups(ranked, GROUPS * (BLOCK_E // EXPERTS), TOP_GROUPS, BLOCK_T, BLOCK_E)
        keys = tl.where(is_expert[None, :], _keys(ranked, columns[None, :], BLOCK_E), LEAST_KEY)
        experts = tl.zeros([BLOCK_T, BLOCK_K], tl.int32)
        is_taken = tl.zeros([BLOCK_T, BLOCK_E], tl.int32)
        for slot in range(TOP_K):
            best = tl.max(keys, 1, keep_dims=True)
            expert = (BLOCK_E - (best & INDEX_MASK)).to(tl.int32)
            experts = tl.where(slots[None, :] == slot, expert, experts)
            is_best = columns[None, :] == expert
            is_taken = tl.where(is_best, 1, is_taken)
            keys = tl.where(is_best, LEAST_KEY, keys)
        is_taken = tl.where(is_token[:, None], is_taken, 0)

        weights = tl.gather(scores, experts, 1)
        if SIGMOID:
            weights = tl.where(is_slot[None, :], weights, 0.0)
            if RENORMALIZE:
                weights = tl.div_rn(weights, tl.sum(weights, 1, keep_dims=True) + SMALLEST_SUM)
        else:
            largest = tl.max(scores, 1, keep_dims=True)
            weights = tl.where(is_slot[None, :], tl.exp2((weights - largest) * LOG2_E), 0.0)
            terms = weights if RENORMALIZE else tl.exp2((scores - largest) * LOG2_E)
            weights = tl.div_rn(weights, tl.sum(terms, 1, keep_dims=True))

        numbers = tl.cumsum(is_taken, 0) - is_taken + counts[None, :]
        numbers = tl.gather(numbers, experts, 1)
        counts += tl.sum(is_taken, 0)
        rows = token[:, None] * TOP_K + slots[None, :]
        is_row = is_token[:, None] & is_slot[None, :]
        tl.store(weights_ptr + rows, weights * scale, mask=is_row)
        tl.store(experts_ptr + rows, experts, mask=is_row)
        tl.store(inverse_ptr + rows, numbers, mask=is_row)

    if ALONE:
        tl.store(counts_ptr + columns, columns * 0, mask=is_expert)
        _store_offsets(offsets_ptr, counts, columns, EXPERTS)
        tl.debug_barrier()  # other threads of this program wrote what is read next
        for first in range(0, tokens * TOP_K, ROWS_AT_ONCE):
            _place(
                first, tokens * TOP_K, steps * BLOCK_T, experts_ptr, counts_ptr, offsets_ptr, order_ptr, inverse_ptr,
                EXPERTS, TOP_K, ROWS_AT_ONCE,
            )  # fmt: skip
    else:
        tl.store(counts_ptr + program * EXPERTS + columns, counts, mask=is_expert)


@triton.jit(do_not_specialize=["programs"])
def scan_kernel(
    counts_ptr, offsets_ptr, programs, EXPERTS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_E: tl.constexpr
):  # fmt: skip
    """Grid: (1,). Each count [P, E] becomes the sum of those above it, and all of them become offsets."""
    columns = tl.arange(0, BLOCK_E)
    passed = tl.zeros([BLOCK_E], tl.int32)
    for first in range(0, programs, BLOCK_P):
        row = first + tl.arange(0, BLOCK_P)
        ptrs = counts_ptr + row[:, None] * EXPERTS + columns[None, :]
        is_real = (row < programs)[:, None] & (columns < EXPERTS)[None, :]
        counts = tl.load(ptrs, mask=is_real, other=0)
        tl.store(ptrs, tl.cumsum(counts, 0) - counts + passed[None, :], mask=is_real)
        passed += tl.sum(counts, 0)
    _store_offsets(offsets_ptr, passed, columns, EXPERTS)


@triton.jit(do_not_specialize=["rows", "tokens_per_program"])
def place_kernel(
    experts_ptr, counts_ptr, offsets_ptr, order_ptr, inverse_ptr, rows, tokens_per_program,
    EXPERTS: tl.constexpr, TOP_K: tl.constexpr, ROWS_AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Grid: (row tiles,)."""
    _place(
        tl.program_id(0) * ROWS_AT_ONCE, rows, tokens_per_program, experts_ptr, counts_ptr, offsets_ptr, order_ptr,
        inverse_ptr, EXPERTS, TOP_K, ROWS_AT_ONCE,
    )  # fmt: skip


def programs_at_once(experts: int) -> int:
    """Programs whose counts are scanned together."""
    return min(64, COUNTS_AT_ONCE // block_e(experts))


def shape(experts: int, choice: Choice, tile: RouteTile) -> dict[str, Any]:
    """The compile-time arguments of choose_kernel for E = `experts`, but for ALONE."""
    return {
        "EXPERTS": experts,
        "TOP_K": choice.top_k,
        "SIGMOID": choice.score == "sigmoid",
        "RENORMALIZE": choice.renormalize,
        "GROUPS": choice.groups,
        "TOP_GROUPS": choice.top_groups,
        "BLOCK_T": tile.block_t,
        "BLOCK_E": block_e(experts),
        "BLOCK_K": triton.next_power_of_2(choice.top_k),
        "ROWS_AT_ONCE": ROWS_AT_ONCE,
    }


def launch(
    logits: Tensor,
    correction_bias: Tensor | None,
    choice: Choice,
    weights: Tensor,
    experts: Tensor,
    order: Tensor,
    inverse: Tensor,
    offsets: Tensor,
    tile: RouteTile,
) -> None:
    """Fill the tensors of a `Routing` for checked arguments, all of them contiguous."""
    tokens, expert_count = logits.shape
    tiles = triton.cdiv(tokens, tile.block_t)
    programs = 1 if tokens <= tile.alone_tokens else min(tiles, tile.most_programs)
    steps = triton.cdiv(tiles, programs)
    counts = torch.empty(programs, expert_count, dtype=torch.int32, device=logits.device)
    with torch.cuda.device_of(logits):
        choose_kernel[(programs,)](
            logits, correction_bias, weights, experts, order, inverse, offsets, counts, tokens, steps, choice.scale,
            logits.stride(0), ALONE=programs == 1, **shape(expert_count, choice, tile),
            num_warps=tile.num_warps, num_stages=1, maxnreg=REGISTERS_PER_THREAD,
        )  # fmt: skip
        if programs == 1:
            return
        scan_kernel[(1,)](
            counts, offsets, programs, EXPERTS=expert_count, BLOCK_P=programs_at_once(expert_count),
            BLOCK_E=block_e(expert_count), num_warps=SCAN_WARPS, num_stages=1,
        )  # fmt: skip
        rows = tokens * choice.top_k
        place_kernel[(triton.cdiv(rows, ROWS_AT_ONCE),)](
            experts, counts, offsets, order, inverse, rows, steps * tile.block_t,
            EXPERTS=expert_count, TOP_K=choice.top_k, ROWS_AT_ONCE=ROWS_AT_ONCE, num_warps=PLACE_WARPS, num_stages=1,
        )  # fmt: skip
