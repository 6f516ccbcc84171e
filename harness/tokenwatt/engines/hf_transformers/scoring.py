"""Log-probabilities of given tokens by a plain forward pass, as anybody would write it: others are held to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from tokenwatt.architecture import Architecture
from tokenwatt.engines.limits import refusal_of
from tokenwatt.engines.logprobs import logprobs_of
from tokenwatt.errors import EngineError
from tokenwatt.workloads import Request

ROWS_AT_ONCE = 256
"""Tokens whose logits are made float32 together."""


@torch.inference_mode()
def prompt_logprobs(
    model: PreTrainedModel, architecture: Architecture, prompts: Sequence[np.ndarray], attention: str
) -> list[np.ndarray]:
    """Natural-log probability of each token of each prompt given those before it, float32 [isl - 1].

    attention: by transformers' name, not paged: a paged one computes nothing without the manager of its pages. The
    model has its own again afterwards.

    Raises:
        EngineError: a prompt that is longer than the model's contexts, or has tokens that it does not know.
    """
    for place, prompt in enumerate(prompts):
        why = refusal_of(architecture, architecture.max_position_embeddings, Request(place, prompt, 1))
        if why is not None:
            raise EngineError(f"prompt {place} cannot be scored: {why}")
    own = str(model.config._attn_implementation)
    if own != attention:
        model.set_attn_implementation(attention)
    try:
        return [_score(model, prompt) for prompt in prompts]
    finally:
        if own != attention:
            model.set_attn_implementation(own)


def _score(model: PreTrainedModel, prompt: np.ndarray) -> np.ndarray:
    tokens = torch.from_numpy(prompt.astype(np.int64)).to(model.device)
    logits = model(tokens[None], use_cache=False).logits[0, :-1]
    pairs = zip(logits.split(ROWS_AT_ONCE), tokens[1:].split(ROWS_AT_ONCE), strict=True)
    return np.concatenate([logprobs_of(*pair).cpu().numpy() for pair in pairs])
