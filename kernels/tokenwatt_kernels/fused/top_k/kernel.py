"""The k largest logits of each row and the row's log-sum-exp, in two launches.

Shapes
    B rows of V logits, in parts of BLOCK logits and groups of GROUP; K is k rounded up to a power of two

The first launch reads all logits once, and leaves the largest of each group and the log-sum-exp of each part. The k
largest logits lie in the k groups whose largest logits are largest, so the second launch, a program for each row, finds
those groups, and then the logits in them.

Logits are compared as keys: an integer that is larger for a larger logit, and of equal ones for the lower index. It
has the logit in its upper 32 bits and the index, counted down, in its lower.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwatt_kernels import following as following
from tokenwatt_kernels.fused.top_k.tiles import TopKTile, block

LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2.0))
LOWER_32 = tl.constexpr(2**32 - 1)
NO_KEY = tl.constexpr(-(2**63))
SIGN_SHIFT = tl.constexpr(31)
MAGNITUDE = tl.constexpr(2**31 - 1)
SELECT_REGISTERS = 128
"""What the compiler may give a thread of the second launch: with a softcap it would spill to stay at 80."""


@triton.jit
def _in_order(bits):
    """fp32 bits as an integer in the order of the numbers, and back again: negative numbers are turned round."""
    return bits ^ ((bits >> SIGN_SHIFT) & MAGNITUDE)


@triton.jit
def _keys(logits, index, is_real):
    """Logits [...] at `index` as keys; where there is none, a key below all others."""
    number = tl.where(logits == logits, logits, float("-inf"))  # NaN
    number = tl.where(number == 0.0, 0.0, number)  # -0.0 is 0.0
    upper = _in_order(number.to(tl.int32, bitcast=True)).to(tl.int64) << 32
    return tl.where(is_real, upper | (index.to(tl.int64) ^ LOWER_32), NO_KEY)


@triton.jit
def _index_of(keys):
    return (keys & LOWER_32) ^ LOWER_32


@triton.jit
def _transformed(logits, factor, softcap, CAPPED: tl.constexpr):
    """A softcap, then times a factor. -inf stays -inf."""
    if CAPPED:
        capped = (1.0 - 2.0 / (1.0 + tl.exp2(logits * (2.0 / softcap) * LOG2_E))) * softcap
        logits = tl.where(logits == float("-inf"), logits, capped)
    return logits * factor


@triton.jit
def _factor(temperature_ptr, row):
    factor = 1.0
    if temperature_ptr is not None:
        factor = 1.0 / tl.load(temperature_ptr + row)
    return factor


@triton.jit
def _log2_sum(exponents):
    """log2 of the sum of 2^exponents; -inf where all are."""
    largest = tl.max(exponents, 0)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    return shift + tl.log2(tl.sum(tl.exp2(exponents - shift), 0))


@triton.jit(do_not_specialize=["softcap"])
def part_kernel(
    logits_ptr, largest_ptr, log_sum_ptr, temperature_ptr, softcap, logits_stride_b,
    VOCABULARY: tl.constexpr, CAPPED: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
    FOLLOWS: tl.constexpr,
):  # fmt: skip
    """Grid: (B * parts,). largest: [B, groups]; log_sum: [B, parts] fp32, in log2."""
    following.begin(FOLLOWS)
    PARTS: tl.constexpr = (VOCABULARY + BLOCK - 1) // BLOCK
    GROUPS: tl.constexpr = (VOCABULARY + GROUP - 1) // GROUP
    row = (tl.program_id(0) // PARTS).to(tl.int64)
    part = tl.program_id(0) % PARTS
    index = part * BLOCK + tl.arange(0, BLOCK)
    logits = tl.load(logits_ptr + row * logits_stride_b + index, mask=index < VOCABULARY, other=float("-inf"))
    logits = logits.to(tl.float32)

    numbers = tl.where(logits == logits, logits, float("-inf"))
    largest = tl.max(tl.reshape(numbers, [BLOCK // GROUP, GROUP]), 1)
    group = part * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
    tl.store(largest_ptr + row * GROUPS + group, largest.to(largest_ptr.dtype.element_ty), mask=group < GROUPS)

    factor = _factor(temperature_ptr, row) * LOG2_E
    log_sum = _log2_sum(_transformed(logits, factor, softcap, CAPPED))
    tl.store(log_sum_ptr + row * PARTS + part, log_sum)


@triton.jit(do_not_specialize=["softcap"])
def select_kernel(
    logits_ptr, largest_ptr, part_log_sum_ptr, temperature_ptr, values_ptr, indices_ptr, log_sum_ptr, softcap,
    logits_stride_b, values_stride_b, indices_stride_b, log_sum_stride_b,
    VOCABULARY: tl.constexpr, K: tl.constexpr, CAPPED: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_GROUPS: tl.constexpr, BLOCK_PARTS: tl.constexpr, FOLLOWS: tl.constexpr,
):  # fmt: skip
    """Grid: (B,). values: [B, k] fp32; indices: [B, k] int32; log_sum: [B] fp32, natural."""
    following.begin(FOLLOWS)
    PARTS: tl.constexpr = (VOCABULARY + BLOCK - 1) // BLOCK
    GROUPS: tl.constexpr = (VOCABULARY + GROUP - 1) // GROUP
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, BLOCK_PARTS)
    parts = tl.load(part_log_sum_ptr + row * PARTS + part, mask=part < PARTS, other=float("-inf"))
    tl.store(log_sum_ptr + row * log_sum_stride_b, _log2_sum(parts) * LN_2)

    best = tl.full([BLOCK_K], NO_KEY, tl.int64)  # of groups, the largest first
    for first in range(0, GROUPS, BLOCK_GROUPS):
        group = first + tl.arange(0, BLOCK_GROUPS)
        largest = tl.load(largest_ptr + row * GROUPS + group, mask=group < GROUPS, other=0.0).to(tl.float32)
        keys = _keys(largest, group, group < GROUPS)
        if BLOCK_K == 1:
            best = tl.maximum(best, tl.max(keys, 0))
        else:
            best = tl.topk(tl.reshape(tl.join(best, tl.topk(keys, BLOCK_K)), [2 * BLOCK_K]), BLOCK_K)

    # A group that is not there has an index that no logit has.
    index = tl.reshape(_index_of(best)[:, None] * GROUP + tl.arange(0, GROUP)[None, :], [BLOCK_K * GROUP])
    is_real = index < VOCABULARY
    logits = tl.load(logits_ptr + row * logits_stride_b + index, mask=is_real, other=0.0).to(tl.float32)
    keys = _keys(logits, index, is_real)
    one = tl.full([1], NO_KEY, tl.int64)
    best = tl.maximum(one, tl.max(keys, 0)) if BLOCK_K == 1 else tl.topk(keys, BLOCK_K)

    place = tl.arange(0, BLOCK_K)
    logit = _in_order((best >> 32).to(tl.int32)).to(tl.float32, bitcast=True)
    value = _transformed(logit, _factor(temperature_ptr, row), softcap, CAPPED)
    tl.store(values_ptr + row * values_stride_b + place, value, mask=place < K)
    tl.store(indices_ptr + row * indices_stride_b + place, _index_of(best).to(tl.int32), mask=place < K)


def shape(vocabulary: int, k: int, tile: TopKTile) -> dict[str, int]:
    """The compile-time sizes of the second launch; the first has some of them."""
    block_k = block(k)
    return {
        "VOCABULARY": vocabulary,
        "BLOCK": tile.block,
        "GROUP": tile.group,
        "K": k,
        "BLOCK_K": block_k,
        "BLOCK_GROUPS": max(tile.groups_at_once, block_k),
        "BLOCK_PARTS": block(triton.cdiv(vocabulary, tile.block)),
    }


def launch(
    logits: Tensor,
    temperature: Tensor | None,
    softcap: float | None,
    values: Tensor,
    indices: Tensor,
    log_sum: Tensor,
    tile: TopKTile,
) -> None:
    """Write the choice of checked arguments into values and indices [B, k] and log_sum [B]."""
    (rows, vocabulary), k = logits.shape, values.shape[1]
    if rows == 0:
        return
    parts, groups = triton.cdiv(vocabulary, tile.block), triton.cdiv(vocabulary, tile.group)
    largest = torch.empty(rows, groups, dtype=logits.dtype, device=logits.device)
    part_log_sum = torch.empty(rows, parts, dtype=torch.float32, device=logits.device)
    cap, capped = softcap or 0.0, softcap is not None
    with torch.cuda.device_of(logits):
        part_kernel[(rows * parts,)](
            logits, largest, part_log_sum, temperature, cap, logits.stride(0),
            VOCABULARY=vocabulary, CAPPED=capped, BLOCK=tile.block, GROUP=tile.group,
            **following.options(logits.device), num_warps=tile.num_warps, enable_fp_fusion=True,
        )  # fmt: skip
        select_kernel[(rows,)](
            logits, largest, part_log_sum, temperature, values, indices, log_sum, cap, logits.stride(0),
            values.stride(0), indices.stride(0), log_sum.stride(0),
            CAPPED=capped, **shape(vocabulary, k, tile), **following.options(logits.device),
            num_warps=tile.select_warps, maxnreg=SELECT_REGISTERS, enable_fp_fusion=True,
        )  # fmt: skip
