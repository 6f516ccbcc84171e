"""Wrong grouped kernels, each with the problem on which the gate must notice."""

from __future__ import annotations

from tokenwatt_kernels.mutation import Mutant

MUTANTS = (
    Mutant(
        "takes the first expert's weight",
        "one_row_each",
        "expert.to(tl.int64) * weight_stride_e",
        "expert.to(tl.int64) * 0",
    ),
    Mutant("copies the first expert's weight", "whole_tiles", "weight_row = expert * N", "weight_row = 0 * N"),
    Mutant(
        "counts an expert's tiles as full",
        "odd",
        "tl.cumsum(tl.cdiv(end - start, BLOCK_M), 0)",
        "tl.cumsum((end - start) // BLOCK_M, 0)",
    ),
    Mutant(
        "skips the last step",
        "odd",
        "for first in range(0, K, BLOCK_K):",
        "for first in range(0, K - BLOCK_K, BLOCK_K):",
    ),
    Mutant(
        "multiplies the slack after a row",
        "odd",
        "a = _load(a_ptrs, steps, K - first, WHOLE_STEPS)",
        "a = _load(a_ptrs, steps, K - first, True)",
    ),
    Mutant("loses an expert's last row", "odd", "is_row = row < row_end", "is_row = row < row_end - 1"),
    Mutant(
        "forgets the short last group",
        "many_row_tiles",
        "within // rows_in_group * BLOCK_N",
        "within // GROUP_M * BLOCK_N",
    ),
    Mutant("stores quarters in the wrong order", "down_of_one", "(2 * half + quarter) *", "(half + 2 * quarter) *"),
    Mutant("reads rows as tokens", "gate_up", "a_row = slot // TOP_K", "a_row = slot % TOP_K"),
    Mutant(
        "takes the bias of the first expert",
        "gate_up_bias",
        "bias = tl.load(bias_ptr + expert.to(tl.int64) * bias_stride_e",
        "bias = tl.load(bias_ptr + expert * 0",
    ),
    Mutant("weighs by sorted place", "down", "tl.load(token_weights_ptr + slot)", "tl.load(token_weights_ptr + row)"),
    Mutant("leaves rows sorted", "down", "out_row = slot if COMBINES else row", "out_row = row"),
    Mutant("adds the first slot k times", "down", "(token * TOP_K + slot) * N", "(token * TOP_K) * N"),
    Mutant("forgets the residual", "down", "total += residual.to(tl.float32)", "total += 0.0"),
    Mutant(
        "forgets the factors of rows",
        "gate_up",
        "acc *= row_scales[:, None] * column_scales[None, :]",
        "acc *= column_scales[None, :]",
        dtype_name="float8_e4m3fn",
    ),
    Mutant(
        "forgets what has left the accumulator",
        "channel_scales",
        "acc += tl.dot(left, right, max_num_imprecise_acc=BLOCK_K)",
        "acc = tl.dot(left, right, max_num_imprecise_acc=BLOCK_K)",
        dtype_name="float8_e4m3fn",
    ),
    Mutant(
        "takes the first block's factor",
        "block_scales",
        " scale_ptrs += 1",
        " scale_ptrs += 0",
        dtype_name="float8_e4m3fn",
    ),
    Mutant(
        "takes the gate's factors for both",
        "block_scales",
        "tl.load(gate), tl.load(gate + stride))",
        "tl.load(gate), tl.load(gate))",
        module="tokenwatt_kernels.matmul.loads",
        dtype_name="float8_e4m3fn",
    ),
    Mutant(
        "takes one factor for all columns",
        "block_scales_down",
        "tl.load(pointer + first_column // SCALE_BLOCK * stride)",
        "tl.load(pointer)",
        module="tokenwatt_kernels.matmul.loads",
        dtype_name="float8_e4m3fn",
    ),
    Mutant(
        "reads the chunks of another expert",
        "mxfp4",
        "chunk = expert * tl.cdiv(K, BLOCK_K)",
        "chunk = expert * (K // BLOCK_K)",
        dtype_name="bfloat16",
    ),
    Mutant(
        "makes the bias of a packed product as small as its codes",
        "mxfp4_gate_up",
        "bias *= 1.0 / unpack.SUM_FACTOR",
        "bias *= 1.0",
        dtype_name="bfloat16",
    ),
)
