"""From a workload's sampling to transformers' generation config, as far as both mean the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import GenerationConfig

from tokenwatt.workloads import Sampling

NO_EOS = -1
"""What continuous batching takes for "no token ends a request"."""
PAD_TOKEN = 0
"""Stands left of shorter prompts, where nothing looks at it."""


def padded(prompts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of different lengths as one batch, int64 [B, longest], and where their tokens are, int64 of 0 and 1.

    >>> tokens, mask = padded([np.array([7, 8]), np.array([9])])
    >>> tokens.tolist(), mask.tolist()
    ([[7, 8], [0, 9]], [[1, 1], [0, 1]])
    """
    longest = max(map(len, prompts))
    tokens = np.full((len(prompts), longest), PAD_TOKEN, dtype=np.int64)
    mask = np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        start = longest - len(prompt)
        tokens[row, start:], mask[row, start:] = prompt, 1
    return tokens, mask


def unmapped(sampling: Sampling) -> str | None:
    """Why a sampling cannot be had from transformers; None if it can."""
    for name, found, neutral in (
        ("repetition_penalty", sampling.repetition_penalty, 1.0),
        ("min_p", sampling.min_p, 0.0),
    ):
        if found != neutral:
            return (
                f"engine 'hf_transformers' has no {name} that means the same in a batch, got {found}; allowed:"
                f" {name} = {neutral:g}, with temperature, top_k, top_p, stop_token_ids"
            )
    return None


def same_draws(first: Sampling, other: Sampling) -> bool:
    """Whether two requests can share one generation config; which tokens stop them is each one's own."""
    return first.model_copy(update={"stop_token_ids": ()}) == other.model_copy(update={"stop_token_ids": ()})


def generation_config(sampling: Sampling) -> GenerationConfig:
    """The config of a batch: no token ends it, and nothing is left to a checkpoint's own defaults."""
    if sampling.temperature == 0.0:
        return GenerationConfig(do_sample=False, pad_token_id=PAD_TOKEN)
    return GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        pad_token_id=PAD_TOKEN,
    )
