"""Engine `hf_transformers`: the same greedy tokens as engine `native`, from the same files, in both modes."""

from __future__ import annotations

import gc
import json
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.engines.families import CONFIGS, VOCABULARY, make
from tests.factories import closed
from transformers import GenerationConfig
from transformers.generation.continuous_batching import cache

from tokenwatt.engines import open_engine
from tokenwatt.engines.protocol import Engine, TokenEvent
from tokenwatt.errors import EngineError, UserError
from tokenwatt.load import Sent
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import Request, Sampling

MODES = ["generate", "continuous_batching"]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# Gemma 3 is left out: transformers does not hand over the softcap of its config. gpt-oss has sinks, which sdpa has not.
FAMILIES = {"llama": "sdpa", "qwen3": "sdpa", "mistral": "eager", "qwen3-moe": "sdpa", "gpt-oss": "eager"}


def requests(lengths: tuple[int, ...] = (5, 16, 40, 7, 1, 33), osl: int = 12, **changes: Any) -> list[Request]:
    """Each has one token less to come than the one before."""
    rng = np.random.default_rng(1)
    return [
        Request(index, rng.integers(0, VOCABULARY, size, dtype=np.int32), osl - index, **changes)
        for index, size in enumerate(lengths)
    ]


def spec(folder: Path, name: str = "hf_transformers", device: Any = "cpu", **changes: Any) -> BenchSpec:
    settings = {"model": str(folder), "weights": str(folder), "dtype": "float32", "device": device, **changes}
    return BenchSpec.model_validate({"engine": name, "workloads": ("chat",), "concurrency": (3,), **settings})


def loaded(bench: BenchSpec, concurrency: int = 3, longest: int = 96) -> Engine:
    engine = open_engine(bench)
    engine.load(concurrency, longest)
    return engine


class Ticks:
    """A clock that moves on by one second whenever it is read."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def events_of(engine: Engine, asked: Sequence[Request], concurrency: int = 3) -> list[TokenEvent]:
    return list(engine.serve(closed(asked, concurrency), Ticks()))


def tokens_of(events: list[TokenEvent]) -> dict[int, tuple[int, ...]]:
    tokens: dict[int, tuple[int, ...]] = defaultdict(tuple)
    for event in events:
        assert event.failure is None
        tokens[event.request_index] += event.token_ids
    return dict(tokens)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny llama, saved."""
    folder = tmp_path_factory.mktemp("llama")
    make("llama", folder)
    return folder


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_engine_native(family, mode, kind, tmp_path):
    make(family, tmp_path)
    asked = requests()
    ours = tokens_of(events_of(loaded(spec(tmp_path, "native", kind)), asked))
    options = {"mode": mode, "attn_implementation": FAMILIES[family]}
    theirs = tokens_of(events_of(loaded(spec(tmp_path, device=kind, options=options)), asked))
    assert theirs == ours
    assert {index: len(tokens) for index, tokens in theirs.items()} == {index: 12 - index for index in range(6)}


@pytest.mark.parametrize("kind", DEVICES)
def test_a_batch_runs_until_its_last_request_is_done_and_then_the_next_begins(folder, kind):
    engine, taken = loaded(spec(folder, device=kind, options={"mode": "generate"})), list[Sent]()
    steps: dict[float, list[TokenEvent]] = defaultdict(list)
    load = closed(requests(), 3)
    load.on_sent = taken.append
    for event in engine.serve(load, Ticks()):
        # Three are in flight from the first step on: who is done leaves its place to the next, which waits.
        assert len(taken) - len([ended for step in steps.values() for ended in step if ended.is_last]) <= 3
        steps[event.at_s].append(event)
    # Budgets of 12, 11, 10, then 9, 8, 7.
    running = [[event.running for event in step] for step in steps.values()]
    assert running == 10 * [[3, 3, 3]] + [[2, 2], [1]] + 7 * [[3, 3, 3]] + [[2, 2], [1]]
    batches = [{event.request_index for event in step} for step in steps.values()]
    assert batches[0] == batches[9] == {0, 1, 2}
    assert batches[12] == batches[18] == {3, 4, 5}
    assert [sent.request_index for sent in taken] == list(range(6))


@pytest.mark.parametrize("kind", DEVICES)
def test_the_manager_takes_a_request_as_another_one_ends(folder, kind):
    engine = loaded(spec(folder, device=kind, options={"mode": "continuous_batching"}))
    asked = [
        replace(request, max_tokens=budget)
        for request, budget in zip(requests((5, 5, 5, 5)), (60, 60, 5, 5), strict=True)
    ]
    events = events_of(engine, asked)
    first = {event.request_index: place for place, event in reversed(list(enumerate(events)))}
    last = {event.request_index: place for place, event in enumerate(events) if event.is_last}
    # Request 2 ends at its fifth token; the last one begins and ends beside the other two, which go on to 60.
    assert last[2] < first[3] < last[3] < min(last[0], last[1])
    assert all(1 <= event.running <= 3 and event.tokens == 1 for event in events)
    assert all(before.at_s < after.at_s for before, after in pairwise(events))


@pytest.mark.parametrize("mode", MODES)
def test_only_the_workloads_tokens_end_a_request(mode, tmp_path):
    make("llama", tmp_path)
    (asked,) = requests((7,))
    greedy = tokens_of(events_of(loaded(spec(tmp_path, options={"mode": mode})), [asked]))[0]
    # A checkpoint that would stop at its own fourth token, and draw from one token alone.
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "eos_token_id": greedy[3]}), encoding="utf-8")
    GenerationConfig(eos_token_id=greedy[3], do_sample=True, temperature=9.0).save_pretrained(tmp_path)
    engine = loaded(spec(tmp_path, options={"mode": mode}))
    assert tokens_of(events_of(engine, [asked]))[0] == greedy
    stopped = replace(asked, sampling=Sampling(stop_token_ids=(greedy[5], 511)))
    events = events_of(engine, [stopped, replace(asked, index=1)])
    until = greedy.index(greedy[5]) + 1
    assert tokens_of(events) == {0: greedy[:until], 1: greedy}
    assert [event.request_index for event in events if event.is_last] == [0, 1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}])
def test_draws_among_one_token_are_greedy(narrow, mode, folder):
    engine = loaded(spec(folder, options={"mode": mode}))
    greedy = tokens_of(events_of(engine, requests()))
    drawn = tokens_of(events_of(engine, requests(sampling=Sampling(temperature=5.0, **narrow))))
    assert drawn == greedy
    assert tokens_of(events_of(engine, requests(sampling=Sampling(temperature=5.0)))) != greedy


def test_draws_follow_the_seed_of_the_bench(folder):
    asked = requests(sampling=Sampling(temperature=2.0))
    engine, again, other = (loaded(spec(folder, seed=seed, options={"mode": "generate"})) for seed in (1, 1, 2))
    tokens = tokens_of(events_of(engine, asked))
    assert tokens_of(events_of(again, asked)) == tokens
    assert tokens_of(events_of(engine, asked)) == tokens
    assert tokens_of(events_of(other, asked)) != tokens


@pytest.mark.parametrize("mode", MODES)
def test_what_cannot_be_served_is_refused_and_the_others_go_on(mode, folder):
    engine = loaded(spec(folder, options={"mode": mode}))
    good = requests((5, 6), osl=4)
    bad = [
        replace(good[0], index=10, sampling=Sampling(temperature=1.0, min_p=0.1)),
        replace(good[0], index=11, sampling=Sampling(repetition_penalty=1.2)),
        replace(good[0], index=12, sampling=Sampling(temperature=0.5)),
        replace(good[0], index=13, max_tokens=92),
        replace(good[0], index=14, prompt=np.array([VOCABULARY], dtype=np.int32)),
    ]
    events = events_of(engine, [bad[0], good[0], *bad[1:], good[1]])
    refusals = {event.request_index: event.failure for event in events if event.failure is not None}
    assert set(refusals) == {10, 11, 12, 13, 14}
    assert "no min_p that means the same" in str(refusals[10])
    assert "no repetition_penalty that means the same" in str(refusals[11])
    assert "samples all requests of a run alike" in str(refusals[12])
    assert "exceed the context that was loaded, 96 tokens" in str(refusals[13])
    assert f"token id {VOCABULARY} is not in the vocabulary" in str(refusals[14])
    assert {event.request_index for event in events if event.is_last and event.failure is None} == {0, 1}
    assert sum(event.tokens for event in events) == 4 + 3


@pytest.mark.parametrize("mode", MODES)
def test_an_abandoned_run_leaves_nothing_behind(mode, folder):
    engine = loaded(spec(folder, options={"mode": mode}))
    before = set(threading.enumerate())  # of which some of torch's may end meanwhile
    run = engine.serve(closed(requests(osl=60), 3), Ticks())
    for _ in range(5):
        next(run)
    with pytest.raises(EngineError, match="a run is under way"):
        next(engine.serve(closed(requests(), 3), Ticks()))
    run.close()
    assert set(threading.enumerate()) <= before
    # A cache that is still there would be missing from what the next run finds.
    assert not [found for found in gc.get_objects() if type(found) is cache.PagedAttentionCache]
    assert sum(event.tokens for event in events_of(engine, requests())) == 12 + 11 + 10 + 9 + 8 + 7


def test_operations_of_a_batch_are_those_that_native_counts(folder):
    asked = requests((9, 4), osl=5)  # both prompts in one step, then four and three tokens
    ours, theirs = loaded(spec(folder, "native")), loaded(spec(folder, options={"mode": "generate"}))
    for engine in (ours, theirs):
        events_of(engine, asked)
    assert theirs.report(0.0, 1e9) == replace(ours.report(0.0, 1e9), prefix_cache_hit_rate=None)
    assert theirs.report(1e9, 2e9).flop == 0
    assert theirs.probes(0.0, 1e9).probes == ()


def test_continuous_batching_does_not_know_its_operations(folder):
    engine = loaded(spec(folder, options={"mode": "continuous_batching"}))
    events_of(engine, requests())
    assert (engine.report(0.0, 1e9).flop, engine.report(0.0, 1e9).bytes) == (None, None)


def test_a_static_cache_gives_the_same_tokens(folder):
    growing = loaded(spec(folder, options={"mode": "generate"}))
    static = loaded(spec(folder, options={"mode": "generate", "cache_implementation": "static"}))
    assert tokens_of(events_of(static, requests())) == tokens_of(events_of(growing, requests()))


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("family", ["qwen3", "gemma3", "deepseek-v3"])
def test_random_weights_are_made_on_the_device_and_make_a_whole_model(family, kind, tmp_path):
    CONFIGS[family].save_pretrained(tmp_path)
    bench = spec(tmp_path, device=kind, weights="random", dtype="bfloat16", seed=3)
    bench = bench.model_copy(update={"options": {"mode": "generate", "attn_implementation": "eager"}})
    model, again = (loaded(bench)._ready.state_dict() for _ in range(2))  # pyrefly: ignore
    for name, tensor in model.items():
        assert tensor.device.type == kind
        assert torch.equal(tensor, again[name])
        if name.endswith("norm.weight"):
            assert set(tensor.tolist()) == {0.0 if family == "gemma3" else 1.0}
        elif "correction" not in name:
            assert tensor.dtype == torch.bfloat16
            assert tensor.std().item() == pytest.approx(0.02, rel=0.15)


def test_native_computes_the_same_from_saved_random_weights(tmp_path):
    CONFIGS["qwen3"].save_pretrained(tmp_path)
    theirs = loaded(spec(tmp_path, weights="random", options={"mode": "generate"}))
    tokens = tokens_of(events_of(theirs, requests()))
    theirs._ready.save_pretrained(tmp_path)  # pyrefly: ignore
    assert tokens_of(events_of(loaded(spec(tmp_path, "native")), requests())) == tokens


def test_identity_says_version_mode_and_settings(folder):
    options = {"mode": "continuous_batching", "attn_implementation": "eager", "max_batch_tokens": 64}
    identity = open_engine(spec(folder, options=options)).identity
    assert identity.name == "hf_transformers.continuous_batching"
    assert identity.version == f"{transformers.__version__} eager max_batch_tokens=64"
    assert (identity.model, identity.dtype, identity.weights_source) == (str(folder), "float32", "safetensors")
    assert (identity.quantization, identity.kv_cache_dtype, identity.gpu_uuids) == ("none", "float32", ())
    assert identity.longest_context == 256


def test_a_small_step_computes_prompts_in_chunks(folder):
    whole = loaded(spec(folder, options={"mode": "continuous_batching"}))
    chunks = loaded(spec(folder, options={"mode": "continuous_batching", "max_batch_tokens": 16, "block_size": 16}))
    assert tokens_of(events_of(chunks, requests())) == tokens_of(events_of(whole, requests()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"options": {}}, "options of engine 'hf_transformers': missing key 'mode'"),
        ({"options": {"mode": "generate", "num_blocks": 4}}, "mode generate has no num_blocks; leave it out"),
        (
            {"options": {"mode": "continuous_batching", "cache_implementation": "static"}},
            "mode continuous_batching has no cache_implementation",
        ),
        ({"options": {"mode": "generate", "attn_implementation": "sdqa"}}, "with attn_implementation 'sdqa'"),
        (
            {"options": {"mode": "generate", "attn_implementation": "flash_attention_2"}},
            "cannot run .* with attn_implementation 'flash_attention_2'",
        ),
        (
            {"model": None, "weights": "random", "options": {"mode": "generate"}},
            "engine 'hf_transformers' needs a model",
        ),
        ({"model": "gpt-oss-20b", "weights": "random", "options": {"mode": "generate"}}, "take another, such as"),
        (
            {"model": "DeepSeek-V3", "weights": "random", "options": {"mode": "continuous_batching"}},
            'latent attention has two; allowed: mode = "generate"',
        ),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded(changes, said, folder):
    with pytest.raises(UserError, match=said) as refused:
        open_engine(spec(folder, **changes))
    assert "\n" not in str(refused.value)


def test_requests_beyond_the_model_are_refused(folder):
    engine = open_engine(spec(folder, options={"mode": "generate"}))
    engine.check(256, VOCABULARY)
    with pytest.raises(UserError, match="a request may reach 257 tokens"):
        engine.check(257, VOCABULARY)
    with pytest.raises(UserError, match=f"workload vocabulary is {VOCABULARY + 1}"):
        engine.check(256, VOCABULARY + 1)


def test_continuous_batching_on_a_processor_needs_psutil_where_transformers_sees_no_memory(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cache, "get_device_and_memory_breakdown", lambda: (torch.device("cpu"), 0, 0, 0))
    with pytest.raises(UserError, match='pip install psutil, or take mode = "generate"'):
        open_engine(spec(folder, options={"mode": "continuous_batching"}))
    open_engine(spec(folder, options={"mode": "generate"}))


def test_a_cache_that_does_not_fit_fails_the_load(folder):
    engine = open_engine(spec(folder, options={"mode": "continuous_batching", "num_blocks": 10**9}))
    with pytest.raises(EngineError, match="cannot serve .* by continuous batching"):
        engine.load(3, 96)


def test_an_error_in_the_managers_thread_ends_the_run(folder):
    # Two blocks of 16 tokens, of which a prompt of 40 needs three.
    options = {"mode": "continuous_batching", "num_blocks": 2, "block_size": 16, "max_batch_tokens": 64}
    engine = loaded(spec(folder, options=options))
    with pytest.raises(EngineError, match="transformers gave up request 0"):
        events_of(engine, requests((40,)))


def test_an_error_in_generate_ends_the_run(folder, monkeypatch):
    engine = loaded(spec(folder, options={"mode": "generate"}))

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(engine._ready, "forward", fail)  # pyrefly: ignore
    with pytest.raises(EngineError, match="out of GPU memory: CUDA out of memory. Tried to allocate 1 GiB"):
        events_of(engine, requests())


def test_weights_of_another_model_are_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}), encoding="utf-8")
    engine = open_engine(spec(folder, model=str(tmp_path), options={"mode": "generate"}))
    with pytest.raises(UserError, match=r"no tensor 'model\.layers\.3\..*' of the shape"):
        engine.load(3, 96)
    with pytest.raises(UserError, match="holds neither model.safetensors"):
        open_engine(spec(folder, weights=str(tmp_path), options={"mode": "generate"}))


@pytest.mark.parametrize("mode", MODES)
def test_nothing_runs_before_it_is_loaded_or_after_it_is_closed(mode, folder):
    engine = open_engine(spec(folder, options={"mode": mode}))
    with pytest.raises(EngineError, match="call load"):
        events_of(engine, requests())
    engine.load(3, 96)
    engine.warm_up(requests(osl=40), 3, Ticks())
    engine.close()
    with pytest.raises(EngineError, match="call load"):
        events_of(engine, requests())
