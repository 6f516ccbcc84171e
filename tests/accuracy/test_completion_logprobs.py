"""What a server answers to a completion that echoes its prompt, and to one that draws."""

from __future__ import annotations

from typing import Any

import pytest

from tokenwatt.engines.openai_endpoint.logprobs import continuation_of, prompt_logprobs_of
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
        (answer([None, -1.0, None, -1.0]), "no log-probability for token 2, got None"),
        (answer([None, float("nan"), -1.0, -1.0]), "no log-probability for token 1, got nan"),
        (answer([None, True, -1.0, -1.0]), "no log-probability for token 1, got True"),
    ],
)
def test_an_answer_that_says_something_else_is_an_error(sent, message):
    with pytest.raises(EngineError, match=message):
        prompt_logprobs_of(sent, 3)


def drawn(token_ids: Any, numbers: Any) -> dict[str, Any]:
    """As vLLM 0.32 sends it where it was asked for `return_token_ids`."""
    sent = answer(numbers)
    sent["choices"][0]["token_ids"] = token_ids
    return sent


def test_tokens_that_were_drawn_and_how_probable_they_were():
    found = continuation_of(drawn([7, 3], [-0.5, -2]))
    assert found.tokens.tolist() == [7, 3]
    assert found.logprobs.tolist() == [-0.5, -2.0]


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (answer([-0.5]), "1 log-probabilities for token_ids None in a completion"),
        (drawn([7], [-0.5, -2.0]), r"2 log-probabilities for token_ids \[7\] in a completion"),
        (drawn([], []), r"0 log-probabilities for token_ids \[\] in a completion"),
        (drawn(["7"], [-0.5]), r"1 log-probabilities for token_ids \['7'\]"),
        (drawn([2**40], [-0.5]), "1 log-probabilities for token_ids "),
        (drawn([7], [None]), "no log-probability for token 0, got None"),
        (drawn([7], None), "no choices\\[0\\].logprobs.token_logprobs"),
    ],
)
def test_a_draw_that_says_something_else_is_an_error(sent, message):
    with pytest.raises(EngineError, match=message):
        continuation_of(sent)
