"""Wrong kernels of packed weights, each with the problem on which the gate must notice."""

from __future__ import annotations

from tokenwatt_kernels.mutation import Mutant

PARTS = "tokenwatt_kernels.matmul.parts"
UNPACK = "tokenwatt_kernels.matmul.packed.unpack"

MUTANTS = (
    Mutant(
        "begins each part at the first step",
        "ends",
        "range(first_step, tl.minimum(first_step + count,",
        "range(0, tl.minimum(count,",
        dtype_name="bfloat16",
    ),
    Mutant(
        "leaves no parts",
        "many_tiles",
        "if count != steps:",
        "if count > steps:",
        module=PARTS,
        dtype_name="bfloat16",
    ),
    Mutant(
        "answers every tile of rows with the first",
        "many_rows",
        "return tile % row_tiles * BLOCK_M,",
        "return tile % row_tiles * 0,",
        module=PARTS,
        dtype_name="bfloat16",
    ),
    Mutant(
        "gives all quarters the columns of the first",
        "one_row",
        "words >> 4 * QUARTER & 15",
        "words & 15",
        module=UNPACK,
        dtype_name="bfloat16",
    ),
    Mutant("forgets the zero points", "one_row", "- (row & 15)", "- 8", module=UNPACK, dtype_name="float16"),
    Mutant(
        "takes the scales of the first chunk",
        "one_row",
        "scales_ptr + row + columns",
        "scales_ptr + columns",
        dtype_name="bfloat16",
    ),
    Mutant(
        "takes the scale of the first group",
        "mxfp4",
        "row >> 8 * QUARTER & 255",
        "row & 255",
        module=UNPACK,
        dtype_name="bfloat16",
    ),
    Mutant(
        "forgets a bit of the last quarter",
        "mxfp4",
        "| words >> 5 & 0x0100 |",
        "|",
        module=UNPACK,
        dtype_name="bfloat16",
    ),
    Mutant(
        "gives parts without their factor",
        "mxfp4",
        "acc *= unpack.SUM_FACTOR",
        "acc *= 1.0",
        dtype_name="bfloat16",
    ),
)
