"""Wrong choices of tokens, each with the problem on which the gate must notice."""

from __future__ import annotations

from tokenwatt_kernels.mutation import Mutant

MUTANTS = (
    Mutant("does not turn negative numbers round", "all_of_them", "return bits ^ (", "return bits ^ 0 * ("),
    Mutant(
        "forgets the steps before",
        "five",
        "tl.join(best, tl.topk(keys, BLOCK_K))",
        "tl.join(best * 0 + NO_KEY, tl.topk(keys, BLOCK_K))",
    ),
    Mutant(
        "keeps the last step alone",
        "greedy",
        "best = tl.maximum(best, tl.max(keys, 0))",
        "best = tl.maximum(best * 0 + NO_KEY, tl.max(keys, 0))",
    ),
    Mutant("leaves out the last part", "temperature", "mask=part < PARTS,", "mask=part < PARTS - 1,"),
    Mutant("adds what is past the vocabulary", "five", "mask=index < VOCABULARY,", "mask=index < VOCABULARY + 2,"),
    Mutant(
        "does not divide by the temperature",
        "temperature",
        "factor = 1.0 / tl.load(temperature_ptr + row)",
        "factor = 1.0",
    ),
    Mutant(
        "takes the first row's temperature", "temperature", "tl.load(temperature_ptr + row)", "tl.load(temperature_ptr)"
    ),
    Mutant("caps what is ruled out", "ruled_out", 'tl.where(logits == float("-inf"), logits, capped)', "capped"),
    Mutant(
        "has no guard where all is ruled out",
        "greedy_ruled_out",
        'tl.where(largest == float("-inf"), 0.0, largest)',
        "largest",
    ),
    Mutant("caps at half", "softcap", "* (2.0 / softcap)", "* (1.0 / softcap)"),
    Mutant("answers in base 2", "greedy", "_log2_sum(parts) * LN_2", "_log2_sum(parts)"),
)
