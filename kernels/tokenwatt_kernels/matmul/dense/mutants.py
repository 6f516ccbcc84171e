"""Wrong matmul kernels, each with the problem on which the gate must notice."""

from __future__ import annotations

from tokenwatt_kernels.mutation import Mutant

MUTANTS = (
    Mutant("skips the last step", "odd", "steps = tl.cdiv(K, BLOCK_K)", "steps = K // BLOCK_K"),
    Mutant(
        "multiplies the slack after a row",
        "many_row_tiles",
        "& (tile_steps < steps - first_step)[None, :]",
        "& (tile_steps < BLOCK_K)[None, :]",
        module="tokenwatt_kernels.matmul.loads",
    ),
    Mutant("forgets the short last group", "many_row_tiles", "within // rows_in_group", "within // GROUP_M"),
    Mutant(
        "leaves the last tiles to nobody",
        "many_row_tiles",
        "row_tiles * column_tiles, tl.num_programs(0)",
        "row_tiles * column_tiles - 1, tl.num_programs(0)",
    ),
    Mutant("stores both parts in one place", "whole_tiles", "first_column + half * HALF", "first_column"),
    Mutant("adds the bias after the activation", "swiglu", 'if ACTIVATION != "none":', 'if ACTIVATION == "none":'),
    Mutant("reads the residual of other columns", "swiglu", "first_column = first_column // 2", "first_column = 0"),
    Mutant(
        "scales by the first row's scale",
        "token_channel",
        "a_scale_ptr + rows * a_scale_stride_m, mask=rows < M, other=0.0)[:, None]",
        "a_scale_ptr + rows * 0, mask=rows < M, other=0.0)[:, None]",
        dtype_name="float8_e4m3fn",
    ),
    Mutant(
        "scales every block as the first",
        "block",
        "block = first_step // SCALE_BLOCK",
        "block = 0",
        module="tokenwatt_kernels.matmul.loads",
        dtype_name="float8_e4m3fn",
    ),
    Mutant(
        "takes the gate's scale for both",
        "block_swiglu",
        "tl.load(gate), tl.load(gate + stride))",
        "tl.load(gate), tl.load(gate))",
        module="tokenwatt_kernels.matmul.loads",
        dtype_name="float8_e4m3fn",
    ),
    Mutant(
        "takes the first block's scale for all columns",
        "block",
        "tl.load(pointer + first_column // SCALE_BLOCK * stride)",
        "tl.load(pointer)",
        module="tokenwatt_kernels.matmul.loads",
        dtype_name="float8_e4m3fn",
    ),
    Mutant(
        "forgets what has left the accumulator",
        "tensor",
        "acc += tl.dot(a, tl.trans(weight), max_num_imprecise_acc=BLOCK_K)\n            else",
        "acc = tl.dot(a, tl.trans(weight), max_num_imprecise_acc=BLOCK_K)\n            else",
        dtype_name="float8_e4m3fn",
    ),
)
