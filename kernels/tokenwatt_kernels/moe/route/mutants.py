"""Wrong routing kernels, each with the problem on which the gate must notice."""

from __future__ import annotations

from tokenwatt_kernels.mutation import Mutant

MUTANTS = (
    Mutant(
        "ranks negative scores backwards", "all_experts", "bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)", "bits = bits"
    ),
    Mutant(
        "takes the best expert again",
        "mixtral",
        "keys = tl.where(is_best, LEAST_KEY, keys)\n        is_taken",
        "keys = keys\n        is_taken",
    ),
    Mutant(
        "numbers the rows of a step from 0",
        "many_tokens",
        "tl.cumsum(is_taken, 0) - is_taken + counts[None, :]",
        "tl.cumsum(is_taken, 0) - is_taken",
    ),
    Mutant(
        "does not count the last token",
        "mixtral",
        "is_taken = tl.where(is_token[:, None],",
        "is_taken = tl.where((token < tokens - 1)[:, None],",
    ),
    Mutant("begins every expert at 0", "mixtral", "tl.load(offsets_ptr + expert,", "tl.load(offsets_ptr + expert * 0,"),
    Mutant(
        "forgets the programs before",
        "many_tokens",
        "tl.store(ptrs, tl.cumsum(counts, 0) - counts + passed[None, :], mask=is_real)",
        "tl.store(ptrs, counts * 0, mask=is_real)",
    ),
    Mutant(
        "weighs with the bias",
        "deepseek",
        "weights = tl.gather(scores, experts, 1)",
        "weights = tl.gather(ranked, experts, 1)",
    ),
    Mutant("ranks groups by their best alone", "deepseek", "tl.reshape(best + second,", "tl.reshape(best,"),
    Mutant("forgets the scale", "deepseek", "weights * scale", "weights"),
    Mutant(
        "sums over the chosen alone",
        "not_renormalized",
        "terms = weights if RENORMALIZE else",
        "terms = weights if True else",
    ),
)
