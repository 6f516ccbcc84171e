"""Wrong rotary embeddings, each with the problem on which the gate must notice."""

from __future__ import annotations

from tokenwatt_kernels.mutation import Mutant

MUTANTS = (
    Mutant("turns the second element back", "halves", "+ first * sin[None, :]", "- first * sin[None, :]"),
    Mutant("turns with the first token's angle", "interleaved", "positions_ptr + token", "positions_ptr + token * 0"),
    Mutant("pairs with the middle of the head", "partial", "tl.load(ptrs + PAIRS,", "tl.load(ptrs + DIM // 2,"),
    Mutant("does not norm what stays", "partial_interleaved", "rest *= inverse", "rest *= 1.0 + 0.0 * inverse"),
    Mutant("leaves what stays out of the norm", "norm_unit_offset", "squares += tl.sum(rest * rest, 1)", "pass"),
    Mutant("leaves out the last head", "odd_dim", "is_key = key < KV_HEADS", "is_key = key < KV_HEADS - 1"),
    Mutant(
        "appends values of tokens without a slot",
        "odd_dim",
        "if slot >= 0:\n                scaled =",
        "slot = tl.maximum(slot, 0)\n            if slot >= 0:\n                scaled =",
    ),
    Mutant("stays in the first page", "halves", "slot // PAGE_SIZE * stride_p", "slot // PAGE_SIZE * 0"),
    Mutant("multiplies by the scale", "float8", "inverse = 1.0 / tl.load(scale_ptr", "inverse = tl.load(scale_ptr"),
    Mutant(
        "takes the first scale for all heads",
        "float8_head_scales",
        "scale_ptr + head * stride,",
        "scale_ptr + head * 0,",
    ),
)
