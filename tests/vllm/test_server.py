"""The server of vLLM, started by a command and asked over HTTP by eight clients at once."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
from tests.vllm.conftest import VOCABULARY, Reference, Server

CLIENTS = 8
TOKENS = 12


def streamed(server: Server, prompt: list[int]) -> tuple[list[int], dict[str, int]]:
    """The token ids of one streamed completion, and the usage that the server states at its end."""
    asked = {
        "model": server.model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0.0, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True,
    }  # fmt: skip
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60.0)
    connection.request("POST", "/v1/completions", json.dumps(asked), {"Content-Type": "application/json"})
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    answers = [json.loads(event) for event in events[:-1]]
    tokens = [token for answer in answers for choice in answer["choices"] for token in choice["token_ids"]]
    return tokens, answers[-1]["usage"]


def test_eight_streams_at_once_have_the_tokens_of_transformers(vllm_server: Server, reference: Reference):
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, VOCABULARY, 30 + place).astype(np.int32) for place in range(2 * CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(lambda prompt: streamed(vllm_server, prompt.tolist()), prompts))
    for prompt, (tokens, usage) in zip(prompts, answers, strict=True):
        assert tokens == reference.greedy(prompt, TOKENS)
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(prompt), TOKENS)


def test_it_counts_what_it_serves(vllm_server: Server):
    streamed(vllm_server, [3] * 20)
    connection = http.client.HTTPConnection(urlsplit(vllm_server.url).netloc, timeout=60.0)
    connection.request("GET", "/metrics")
    names = {line.partition("{")[0] for line in connection.getresponse().read().decode().splitlines()}
    connection.close()
    assert {"vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:num_requests_waiting"} <= names
