"""Log-probabilities of a prompt's tokens, out of what an OpenAI-compatible server answers to a completion with `echo`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tokenwatt.errors import EngineError

ECHO_FIELDS: dict[str, Any] = {"echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0.0, "stream": False}
"""What a request to /v1/completions asks beside its model and its `prompt` of token ids.

One token is generated, and ignored: not every server takes 0. `logprobs` counts alternatives, of which 0 would do, but
a server may take 0 for "none".
"""


def prompt_logprobs_of(answer: object, prompt_tokens: int) -> np.ndarray:
    """Natural-log probability of each prompt token given those before it, float64 [prompt_tokens - 1].

    answer: the parsed JSON of a completion of one prompt, asked with ECHO_FIELDS. Its
    `choices[0].logprobs.token_logprobs` has a number for each token of prompt and output, but null for the first, which
    has nothing before it (OpenAI's API reference, completions).

    Raises:
        EngineError: the server does not echo, or leaves a number out.
    """
    numbers = _token_logprobs(answer)
    if len(numbers) < prompt_tokens:
        raise EngineError(
            f"the server gives {len(numbers)} log-probabilities for a prompt of {prompt_tokens} tokens; it must know"
            " echo = true of completions"
        )
    if len(numbers) > prompt_tokens + ECHO_FIELDS["max_tokens"]:
        raise EngineError(
            f"the server gives {len(numbers)} log-probabilities for a prompt of {prompt_tokens} tokens and one more: it"
            " counts other tokens than it was sent"
        )
    return np.array([_number(value, place) for place, value in enumerate(numbers[1:prompt_tokens], 1)])


def _token_logprobs(answer: object) -> Sequence[object]:
    found = answer
    for key in ("choices", 0, "logprobs", "token_logprobs"):
        is_there = isinstance(found, list) and found if key == 0 else isinstance(found, dict) and key in found
        if not is_there:
            raise EngineError(f"the server's completion has no choices[0].logprobs.token_logprobs, got {_short(answer)}")
        found = found[key]  # type: ignore[index]
    if not isinstance(found, list):
        raise EngineError(f"the server's token_logprobs are no list, got {_short(found)}")
    return found


def _number(value: object, place: int) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if not is_number:
        raise EngineError(f"the server has no log-probability for prompt token {place}, got {_short(value)}")
    return float(value)  # type: ignore[arg-type]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
