"""Wrong matmul kernels, each with the problem on which the gate must notice."""

from __future__ import annotations

from tokenwatt_kernels.mutation import Mutant

MUTANTS = (
    Mutant(
        "skips the last step",
        "odd",
        "for first in range(0, K, BLOCK_K):",
        "for first in range(0, K - BLOCK_K, BLOCK_K):",
    ),
    Mutant(
        "multiplies the slack after a row",
        "many_row_tiles",
        "a = tl.load(a_ptrs, mask=row_is_real[:, None] & step_is_real[None, :], other=0.0)",
        "a = tl.load(a_ptrs, mask=row_is_real[:, None], other=0.0)",
    ),
    Mutant(
        "forgets the short last group", "many_row_tiles", "within_group // rows_in_group", "within_group // GROUP_M"
    ),
)
