"""From logits to the log-probabilities of tokens that are given, the same for every engine that has logits."""

from __future__ import annotations

import torch


def logprobs_of(logits: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """Natural-log probability, float32 [T], of the tokens `following` [T] under logits [T, vocab_size] of any dtype."""
    logits = logits.float()
    chosen = logits.gather(1, following.long()[:, None])[:, 0]
    return chosen - logits.logsumexp(1)
