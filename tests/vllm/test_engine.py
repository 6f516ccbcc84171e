"""Engine `vllm` with the real vLLM on a processor."""

from __future__ import annotations

import json
import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.vllm.conftest import VOCABULARY, Reference, alive, offspring

from tokenwatt.clock import RunClock
from tokenwatt.engines import open_engine
from tokenwatt.engines.protocol import Engine, TokenEvent
from tokenwatt.errors import EngineError, UserError
from tokenwatt.load import Arrivals, Listed, Load
from tokenwatt.record import RequestStatus
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import Request, Sampling

HEAD = 256
"""Tokens that all prompts begin with: two blocks of 128, which is vLLM's size on a processor."""
CONCURRENCY = 8


def spec(**settings: Any) -> BenchSpec:
    options = {"enforce_eager": True} | settings.pop("options", {})
    chosen: dict[str, Any] = {"dtype": "float32", "workloads": ("chat",), "concurrency": (CONCURRENCY,)} | settings
    return BenchSpec(engine="vllm", options=options, **chosen)


def prompts(count: int, head: int = HEAD) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    common = rng.integers(3, VOCABULARY, head)
    tails = (rng.integers(3, VOCABULARY, 20 + place) for place in range(count))
    return [np.concatenate([common, tail]).astype(np.int32) for tail in tails]


def requests(count: int) -> list[Request]:
    """Request i has a budget of 5 + i tokens."""
    return [Request(index, prompt, 5 + index) for index, prompt in enumerate(prompts(count))]


def closed(asked: list[Request]) -> Load:
    return Load.closed(Listed(tuple(asked)), CONCURRENCY)


def served(engine: Engine, load: Load) -> list[TokenEvent]:
    return list(engine.serve(load, RunClock()))


def answers(events: list[TokenEvent]) -> dict[int, list[int]]:
    found = defaultdict[int, list[int]](list)
    for event in events:
        found[event.request_index] += event.token_ids
    return found


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Any]:
    engine = open_engine(spec(weights=str(tiny_model)))
    engine.load(CONCURRENCY, 512)
    yield engine
    engine.close()


def test_requests_stream_in_order_and_spend_their_budgets(engine):
    asked = requests(20)
    events = served(engine, closed(asked))
    assert [event.at_s for event in events] == sorted(event.at_s for event in events)
    assert {index: len(tokens) for index, tokens in answers(events).items()} == {
        index: 5 + index for index in range(20)
    }
    for request in asked:
        mine = [event for event in events if event.request_index == request.index]
        assert [event.is_last for event in mine] == [False] * (len(mine) - 1) + [True]
        assert [event.tokens for event in mine] == [1] * request.max_tokens
    assert max(event.running for event in events) == CONCURRENCY


def test_greedy_tokens_are_those_of_transformers(engine, reference: Reference):
    asked = requests(10)
    found = answers(served(engine, closed(asked)))
    assert [found[request.index] for request in asked] == [
        reference.greedy(request.prompt, request.max_tokens) for request in asked
    ]


def test_prompts_are_scored_as_transformers_scores_them(engine, reference: Reference):
    scored = engine.prompt_logprobs(prompts(3))
    for prompt, found in zip(prompts(3), scored, strict=True):
        assert found.shape == (len(prompt) - 1,)
        np.testing.assert_allclose(found, reference.logprobs(prompt), rtol=1e-4, atol=1e-3)


def test_tokens_that_it_draws_are_as_probable_as_in_a_prompt(engine, reference: Reference):
    drawn = engine.continuations(prompts(3), 12)
    for prompt, found in zip(prompts(3), drawn, strict=True):
        assert (found.tokens.shape, found.tokens.dtype) == ((12,), np.int32)
        expected = reference.logprobs(np.concatenate([prompt, found.tokens]))[-12:]
        np.testing.assert_allclose(found.logprobs, expected, rtol=1e-4, atol=1e-3)


def test_the_prefix_cache_is_empty_at_first_and_then_finds_the_common_head(engine):
    for _ in range(2):  # the second run finds nothing that the first has left
        load = Load.closed(Listed(tuple(requests(3))), 1)
        served(engine, load)
        # One after the other: of prompts of 276, 277 and 278 tokens, the last two find their head of 256.
        assert engine.report(0.0, 1e9).prefix_cache_hit_rate == pytest.approx(2 * 256 / (276 + 277 + 278))
    assert engine.report(0.0, -1.0).prefix_cache_hit_rate is None


def test_what_cannot_be_served_is_refused_and_the_rest_is_not_held_up(engine):
    bad = [
        Request(0, np.zeros(0, dtype=np.int32), 4),
        Request(1, np.full(600, 3, dtype=np.int32), 4),
        Request(2, np.full(6, VOCABULARY, dtype=np.int32), 4),
        Request(3, np.full(6, 3, dtype=np.int32), 4, Sampling(temperature=1.0, min_p=0.1, top_p=0.5)),
        Request(4, np.full(6, 3, dtype=np.int32), 4),
    ]
    events = served(engine, closed(bad))
    refused = {event.request_index: event.failure for event in events if event.failure is not None}
    assert {failure.status for failure in refused.values()} == {RequestStatus.REFUSED}
    why = ["the prompt is empty", "exceed the context that was loaded, 512", "token id 512 is not in the vocabulary"]
    why.append("no min_p behind top_p")
    assert all(text in refused[index].detail for index, text in enumerate(why))
    assert len(answers(events)[4]) == 4


def test_a_stop_token_ends_a_request(engine, reference: Reference):
    (prompt,) = prompts(1)
    tokens = reference.greedy(prompt, 6)
    stop = next(token for place, token in enumerate(tokens) if token not in tokens[:place] and place >= 2)
    request = Request(0, prompt, 6, Sampling(stop_token_ids=(stop,)))
    assert answers(served(engine, closed([request])))[0] == tokens[: tokens.index(stop) + 1]


def test_a_timetable_is_kept(engine):
    sent = []
    load = Load.open(Listed(tuple(requests(10))), Arrivals(rate_per_s=50.0, burstiness=float("inf")))
    load.on_sent = sent.append
    events = served(engine, load)
    assert sum(event.is_last for event in events) == 10
    assert [one.due_s - sent[0].due_s for one in sent] == pytest.approx([place / 50 for place in range(10)])
    assert all(one.sent_s >= one.due_s for one in sent)


def test_a_run_may_be_abandoned_and_another_begun(engine, reference: Reference):
    run = engine.serve(closed(requests(20)), RunClock())
    for _ in range(10):
        next(run)
    with pytest.raises(EngineError, match="a run is under way"):
        next(engine.serve(closed(requests(1)), RunClock()))
    run.close()
    asked = requests(2)
    assert answers(served(engine, closed(asked)))[1] == reference.greedy(asked[1].prompt, asked[1].max_tokens)


def test_warm_up_serves_a_few_tokens(engine):
    engine.warm_up(requests(4), CONCURRENCY, RunClock())


def test_the_identity_names_version_and_attention(engine, tiny_model):
    identity = engine.identity
    assert identity.version.endswith("attention=CPU_ATTN enforce_eager=True")
    assert (identity.name, identity.model, identity.device) == ("vllm", str(tiny_model), "cpu")
    assert (identity.gpu_uuids, identity.tp) == ((), 1)
    assert (identity.quantization, identity.kv_cache_dtype, identity.longest_context) == ("none", "float32", 4096)


def test_vllm_tells_nobody_how_it_is_used(engine):
    from vllm.usage.usage_lib import is_usage_stats_enabled  # which looks once: not before the engine is there

    assert not is_usage_stats_enabled()


def test_vllm_writes_nothing_to_the_terminal(engine, capfd):
    served(engine, closed(requests(2)))
    assert capfd.readouterr() == ("", "")


def test_random_weights_need_a_config_alone_and_a_dead_engine_ends_the_run(tiny_model, tmp_path):
    config = json.loads((tiny_model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    others = set(offspring(""))
    engine = open_engine(spec(model=str(tmp_path), options={"max_num_seqs": 4}))
    engine.load(CONCURRENCY, 512)
    assert (engine.identity.weights_source, engine.identity.quantization) == ("random", "none")
    assert engine.identity.version.endswith("attention=CPU_ATTN enforce_eager=True max_num_seqs=4")
    events = served(engine, closed(requests(8)))
    assert {index: len(tokens) for index, tokens in answers(events).items()} == {index: 5 + index for index in range(8)}
    assert max(event.running for event in events) == 4

    (core,) = set(offspring("EngineCor")) - others
    mine = {pid for pid in offspring("VLLM") if pid not in others}
    run = engine.serve(closed(requests(20)), RunClock())
    next(run)
    os.kill(core, signal.SIGKILL)
    with pytest.raises(EngineError, match=r"vLLM's engine has ended: .* \(log: "):
        list(run)
    engine.close()
    assert not any(alive(pid) for pid in mine)


def test_a_core_that_cannot_start_says_why_in_one_line(tiny_model):
    broken = open_engine(spec(weights=str(tiny_model), options={"engine_args": {"num_gpu_blocks_override": 1}}))
    before = set(offspring("VLLM"))
    with pytest.raises(
        EngineError, match=r"^vLLM does not start: ValueError: No available memory for the cache blocks.* \(log: .*\)$"
    ):
        broken.load(CONCURRENCY, 512)
    assert set(offspring("VLLM")) <= before
    broken.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"options": {"engine_args": {"block_sizes": 3}}},
            r"unknown argument of vLLM .* 'block_sizes' \(did you mean 'block_size'\?",
        ),
        ({"options": {"engine_args": {"max_num_seqs": 3}}}, "it is the option 'max_num_seqs'; write it there"),
        ({"options": {"engine_args": {"model": "x"}}}, "cannot set 'model': the bench"),
        (
            {"options": {"engine_args": {"hf_token": "hf_x"}}},
            "cannot set 'hf_token': .*set HF_TOKEN in the",
        ),
        (
            {"options": {"engine_args": {"logprobs_mode": "raw_logits"}}},
            "cannot set 'logprobs_mode': the accuracy",
        ),
        ({"options": {"engine_args": {"max_model_len": "256"}}}, "max_model_len in .* 1 or more, .*; got '256'"),
        ({"options": {"engine_args": {"max_model_len": -1}}}, "max_model_len in .* 1 or more, .*; got -1"),
        ({"options": {"engine_args": {"pipeline_parallel_size": 0}}}, "pipeline_parallel_size in .*; got 0"),
        ({"options": {"engine_args": {"data_parallel_size": True}}}, "data_parallel_size in .*; got True"),
        ({"options": {"attention_backend": "NOPE"}}, "cannot be started so: .*NOPE"),
        ({"options": {"quantization": "nope"}}, "cannot be started so: .*nope"),
        ({"options": {"speed": 3}}, "unknown key 'speed'"),
        ({"device": "cuda"}, "device 'cuda' was asked for, but this vLLM runs on 'cpu'; allowed: auto, cpu"),
        ({"weights": "no/such/folder"}, "no such weights folder"),
    ],
)
def test_wrong_settings_are_one_line(tiny_model, settings, message):
    with pytest.raises(UserError, match=message) as raised:
        open_engine(spec(**{"weights": str(tiny_model)} | settings))
    assert "\n" not in str(raised.value)


def test_prompts_that_vllm_does_not_queue_are_one_line_and_the_others_are_abandoned(tiny_model):
    asked = {"engine_args": {"max_num_queued_reqs": 2}}
    engine: Any = open_engine(spec(weights=str(tiny_model), options=asked))
    try:
        engine.load(CONCURRENCY, 512)
        with pytest.raises(EngineError, match="^prompts cannot be scored: QueueOverflowError: .* busy") as raised:
            engine.prompt_logprobs(prompts(8))
        assert "\n" not in str(raised.value)
        assert [len(found) for found in engine.prompt_logprobs(prompts(2))] == [275, 276]  # the queue is empty again
    finally:
        engine.close()


def test_a_context_that_is_too_long_is_refused_before_anything_is_loaded(tiny_model):
    engine: Any = open_engine(spec(weights=str(tiny_model), options={"engine_args": {"max_model_len": 256}}))
    with pytest.raises(UserError, match="a request may reach 300 tokens, engine_args allow max_model_len = 256"):
        engine.check(300, VOCABULARY)
    with pytest.raises(EngineError, match=r"not loaded; call load\(\) first"):
        engine.prompt_logprobs([])
