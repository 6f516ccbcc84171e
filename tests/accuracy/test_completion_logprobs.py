"""What a server answers to a completion that echoes its prompt."""

from __future__ import annotations

from typing import Any

import pytest

from tokenwatt.engines.openai_endpoint.logprobs import prompt_logprobs_of
from tokenwatt.errors import EngineError


def answer(numbers: Any) -> dict[str, Any]:
    """As vLLM 0.32 sends it, but for what is not read."""
    tokens = [f"t{place}" for place in range(len(numbers))] if isinstance(numbers, list) else []
    logprobs = {"tokens": tokens, "token_logprobs": numbers, "top_logprobs": [None], "text_offset": []}
    return {"object": "text_completion", "choices": [{"index": 0, "text": "", "logprobs": logprobs}]}


def test_the_first_token_and_the_generated_one_are_left_out():
    assert prompt_logprobs_of(answer([None, -1.5, -0.25, -9.0]), 3).tolist() == [-1.5, -0.25]


def test_a_server_that_generates_nothing_is_fine_too():
    assert prompt_logprobs_of(answer([None, -1, -0.25]), 3).tolist() == [-1.0, -0.25]


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (
            {"choices": []},
            "no choices\\[0\\].logprobs.token_logprobs in the server's completion, got {'choices': \\[\\]}",
        ),
        ({"choices": [{"logprobs": None}]}, "no choices\\[0\\].logprobs.token_logprobs"),
        ([1], "no choices\\[0\\].logprobs.token_logprobs"),
        (answer("many"), "no choices\\[0\\].logprobs.token_logprobs"),
        (answer([-9.0]), "gives 1 log-probabilities for a prompt of 3 tokens; it must know echo = true"),
        (answer([None, -1.0, -1.0, -1.0, -1.0]), "gives 5 log-probabilities .* counts other tokens than it was sent"),
        (answer([None, -1.0, None, -1.0]), "no log-probability for prompt token 2, got None"),
        (answer([None, float("nan"), -1.0, -1.0]), "no log-probability for prompt token 1, got nan"),
        (answer([None, True, -1.0, -1.0]), "no log-probability for prompt token 1, got True"),
    ],
)
def test_an_answer_that_says_something_else_is_an_error(sent, message):
    with pytest.raises(EngineError, match=message):
        prompt_logprobs_of(sent, 3)
