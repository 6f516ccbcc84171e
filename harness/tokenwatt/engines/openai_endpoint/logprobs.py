"""Log-probabilities of tokens in the completions of an OpenAI-compatible server: of a prompt by echo, and of a draw."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tokenwatt.engines.openai_endpoint.answers import MOST_TOLD
from tokenwatt.engines.protocol import Continuation
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


def continuation_of(answer: object) -> Continuation:
    """Tokens of a completion of one prompt, which was asked for `logprobs` and vLLM's `return_token_ids`.

    Raises:
        EngineError: the server leaves them out, or has other numbers of both.
    """
    logprobs, token_ids = _token_logprobs(answer), _found(answer, "token_ids")
    if token_ids is None or len(token_ids) != len(logprobs) or not token_ids or not all(map(_is_token, token_ids)):
        raise EngineError(f"{len(logprobs)} log-probabilities for token_ids {_short(token_ids)} in a completion")
    tokens = np.array(token_ids, dtype=np.int32)
    return Continuation(tokens, np.array([_number(value, place) for place, value in enumerate(logprobs)]))


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _token_logprobs(answer: Any) -> list[object]:
    found = _found(answer, "logprobs", "token_logprobs")
    if found is None:
        raise EngineError(f"no choices[0].logprobs.token_logprobs in the server's completion, got {_short(answer)}")
    return found


def _found(answer: Any, *path: str) -> list[Any] | None:
    """A list of the first choice; None if it is not there, or something else is in its place."""
    try:
        found = answer["choices"][0]
        for name in path:
            found = found[name]
    except (KeyError, IndexError, TypeError):
        return None
    return found if isinstance(found, list) else None


def _number(value: object, place: int) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        raise EngineError(f"the server has no log-probability for token {place}, got {_short(value)}")
    return float(value)


def _short(value: object) -> str:
    return repr(value)[:MOST_TOLD]
