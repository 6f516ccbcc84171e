"""Wrong kernels of NVFP4 numbers, each with the problem on which the gate must notice."""

from __future__ import annotations

from tokenwatt_kernels.mutation import Mutant

MUTANTS = (
    Mutant(
        "begins each part at the first step",
        "ends",
        "range(first_step, first_step + count)",
        "range(0, count)",
        dtype_name="bfloat16",
    ),
    Mutant(
        "takes the groups of the first step",
        "one_row",
        "byte, group = step * BLOCK_B, step * BLOCK_G",
        "byte, group = step * BLOCK_B, 0",
        dtype_name="bfloat16",
    ),
    Mutant(
        "takes the groups of the first rows",
        "many_rows",
        "load.tile(a_group_ptr, first_row,",
        "load.tile(a_group_ptr, 0,",
        dtype_name="bfloat16",
    ),
    Mutant(
        "forgets the scales of all",
        "one_row",
        "0, 0, JOINS, ACTIVATION,\n            True,",
        "0, 0, JOINS, ACTIVATION,\n            False,",
        dtype_name="bfloat16",
    ),
)
