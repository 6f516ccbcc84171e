"""Log-probabilities of given tokens by a plain forward pass, as anybody would write it: others are held to it.

And those of tokens that `generate` draws, as a run of it decodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from tokenwatt.architecture import Architecture
from tokenwatt.engines.hf_transformers.sampling import generation_config, padded
from tokenwatt.engines.limits import refusal_of
from tokenwatt.engines.logprobs import logprobs_of
from tokenwatt.engines.protocol import Continuation
from tokenwatt.errors import EngineError
from tokenwatt.workloads import Request, Sampling

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


@torch.inference_mode()
def draw(model: Any, prompts: Sequence[np.ndarray], count: int, cache: str | None) -> list[Continuation]:
    """So many tokens after each prompt, in one batch of `generate` with this `cache_implementation`.

    model: a causal language model of transformers.
    """
    config = generation_config(Sampling(temperature=1.0))
    config.max_new_tokens, config.cache_implementation = count, cache
    config.output_logits = config.return_dict_in_generate = True
    tokens, mask = padded(prompts)
    put = partial(torch.tensor, device=model.device)
    output = model.generate(put(tokens), attention_mask=put(mask), generation_config=config)
    drawn = output.sequences[:, tokens.shape[1] :]
    steps = [logprobs_of(logits, drawn[:, step]) for step, logits in enumerate(output.logits)]
    logprobs = torch.stack(steps, dim=1).cpu().numpy()
    return [Continuation(*pair) for pair in zip(drawn.cpu().numpy().astype(np.int32), logprobs, strict=True)]


def _score(model: PreTrainedModel, prompt: np.ndarray) -> np.ndarray:
    tokens = torch.from_numpy(prompt.astype(np.int64)).to(model.device)
    logits = model(tokens[None], use_cache=False).logits[0, :-1]
    pairs = zip(logits.split(ROWS_AT_ONCE), tokens[1:].split(ROWS_AT_ONCE), strict=True)
    return np.concatenate([logprobs_of(*pair).cpu().numpy() for pair in pairs])
