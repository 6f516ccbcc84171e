"""Log-probabilities of a prompt's tokens, from the answer of an OpenAI-compatible server to a completion with echo."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tokenwatt.engines.openai_endpoint.answers import MOST_TOLD
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
    has nothing before it (OpenAI's API reference, completions). vLLM has -9999 for a token that it holds impossible.

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


def _token_logprobs(answer: Any) -> list[object]:
    try:
        found = answer["choices"][0]["logprobs"]["token_logprobs"]
    except (KeyError, IndexError, TypeError):  # not there, or something else in its place
        found = None
    if not isinstance(found, list):
        raise EngineError(f"no choices[0].logprobs.token_logprobs in the server's completion, got {_short(answer)}")
    return found


def _number(value: object, place: int) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        raise EngineError(f"the server has no log-probability for prompt token {place}, got {_short(value)}")
    return float(value)


def _short(value: object) -> str:
    return repr(value)[:MOST_TOLD]
