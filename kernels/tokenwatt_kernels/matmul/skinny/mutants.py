"""Wrong matmul kernels, each with the problem on which the gate must notice."""

from __future__ import annotations

from tokenwatt_kernels.mutation import Mutant

PARTS = "tokenwatt_kernels.matmul.parts"

MUTANTS = (
    Mutant("begins each part at the first step", "ends", "range(first_step, first_step + count)", "range(0, count)"),
    Mutant(
        "leaves parts in the wrong slot",
        "one_tile",
        "(first_step == 0).to(tl.int32)",
        "(first_step != 0).to(tl.int32)",
        module=PARTS,
    ),
    Mutant("adds a part too few", "one_tile", "// share - program + 1", "// share - program", module=PARTS),
    Mutant(
        "combines whole tiles too",
        "many_tiles",
        "| (tile_begin + steps <= stop)",
        "| (tile_begin + steps < stop)",
        module=PARTS,
    ),
    Mutant("leaves no parts", "many_tiles", "if count != steps:", "if count > steps:", module=PARTS),
    Mutant(
        "joins a part too early",
        "one_tile",
        "parts = (tile * steps + steps - 1) // share - first + 1",
        "parts = (tile * steps + steps - 1) // share - first",
        module=PARTS,
    ),
    Mutant(
        "reads the weight beyond K",
        "odd",
        "(tile_steps < steps - first_step)",
        "(tile_steps < BLOCK_K)",
        module="tokenwatt_kernels.matmul.loads",
    ),
    Mutant("activates parts", "swiglu", 'if ACTIVATION != "none":', 'if ACTIVATION == "none":', module=PARTS),
    Mutant(
        "reads the residual of other columns",
        "swiglu",
        "first_column // 2 + tl.arange",
        "first_column + tl.arange",
        module=PARTS,
    ),
    Mutant(
        "scales columns by the first scale",
        "token_channel",
        "weight_scale_ptr + columns * weight_scale_stride_n",
        "weight_scale_ptr + columns * 0",
        module=PARTS,
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
        "acc += tl.dot(weight, tl.trans(a), max_num_imprecise_acc=BLOCK_K)\n            else",
        "acc = tl.dot(weight, tl.trans(a), max_num_imprecise_acc=BLOCK_K)\n            else",
        dtype_name="float8_e4m3fn",
    ),
)
