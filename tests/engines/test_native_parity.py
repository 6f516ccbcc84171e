"""Engine `native` computes the same model as transformers: same logits, same greedy tokens, from the same files."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.engines.families import CONFIGS, VOCABULARY, make
from tests.factories import closed
from transformers import PreTrainedModel

from tokenwatt.engines.native.batch import Batch
from tokenwatt.engines.native.engine import NativeEngine
from tokenwatt.engines.native.runner import Runner
from tokenwatt.engines.native.scheduler import Step
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import Request, Sampling

# Largest difference of a logit in fp32: a GPU sums in another order.
TOLERANCE = {"cpu": 2e-4, "cuda": 1e-3}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=CONFIGS)
def saved(request, tmp_path_factory) -> tuple[PreTrainedModel, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    return make(request.param, folder), folder


def prompts(lengths: tuple[int, ...], osl: int, shared: int = 0) -> list[Request]:
    """Requests whose first `shared` tokens are the same; each has one token less to come than the one before."""
    rng = np.random.default_rng(1)
    begin = rng.integers(0, VOCABULARY, shared, dtype=np.int32)
    return [
        Request(index, np.concatenate([begin, rng.integers(0, VOCABULARY, size - shared, dtype=np.int32)]), osl - index)
        for index, size in enumerate(lengths)
    ]


@dataclass
class Watched:
    """Everything that one run of an engine computed."""

    logits: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    """(request, position of the token that they predict) -> [vocab_size]"""
    tokens: dict[int, list[int]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


def watch(engine: NativeEngine, requests: list[Request], concurrency: int, monkeypatch) -> Watched:
    seen = Watched(tokens={request.index: [] for request in requests})
    inner = Runner._sample

    def watched(runner: Runner, step: Step, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        seen.steps.append(step)
        positions = batch.context_lens[batch.sampled.long()].tolist()
        for sequence, position, row in zip(step.sequences, positions, logits.cpu(), strict=True):
            seen.logits[sequence.request.index, position] = row.clone()
        return inner(runner, step, batch, logits)

    monkeypatch.setattr(Runner, "_sample", watched)
    for event in engine.serve(closed(requests, concurrency), clock=lambda: 0.0):
        assert event.failure is None
        seen.tokens[event.request_index] += event.token_ids
    return seen


def engine_of(
    folder: Path, kind: Any, concurrency: int, longest: int, *, loads: bool = True, **options
) -> NativeEngine:
    spec = BenchSpec(
        engine="native", model=str(folder), weights=str(folder), dtype="float32", device=kind, workloads=("chat",),
        concurrency=(concurrency,), options={"overlap": True, **options},
    )  # fmt: skip
    engine = NativeEngine(spec)
    if loads:
        engine.load(max_concurrency=concurrency, longest_context=longest)
    return engine


@torch.inference_mode()
def assert_same(model: PreTrainedModel, requests: list[Request], seen: Watched, tolerance: float) -> None:
    """Every logit is that of transformers over the same tokens, and every token is the one that it would choose."""
    for request in requests:
        tokens = seen.tokens[request.index]
        assert len(tokens) == request.max_tokens
        whole = torch.tensor([*request.prompt.tolist(), *tokens[:-1]])[None]
        expected = model(whole).logits[0]
        for place, token in enumerate(tokens):
            position = len(request.prompt) + place
            row = seen.logits[request.index, position]
            assert (row - expected[position - 1]).abs().max() <= tolerance, (request.index, place)
            assert token == int(expected[position - 1].argmax()), (request.index, place)


@pytest.mark.parametrize("kind", DEVICES)
def test_whole_prompts_and_mixed_batches(saved, kind, monkeypatch):
    model, folder = saved
    requests = prompts((5, 16, 70, 7, 1, 33), osl=24)
    engine = engine_of(folder, kind, 3, 96, page_size=16)
    seen = watch(engine, requests, 3, monkeypatch)
    assert any(step.decodes and step.chunks for step in seen.steps)
    assert_same(model, requests, seen, TOLERANCE[kind])


@pytest.mark.parametrize("kind", DEVICES)
def test_prompts_in_chunks(saved, kind, monkeypatch):
    model, folder = saved
    requests = prompts((75, 40, 3), osl=8)
    engine = engine_of(folder, kind, 3, 96, page_size=16, max_step_tokens=13)
    seen = watch(engine, requests, 3, monkeypatch)
    # 118 prompt tokens by at most 13 a step.
    assert sum(bool(step.chunks) for step in seen.steps) >= 10
    assert_same(model, requests, seen, TOLERANCE[kind])


@pytest.mark.parametrize("kind", DEVICES)
def test_sequences_that_gave_way(saved, kind, monkeypatch):
    model, folder = saved
    requests = prompts((30, 28, 26), osl=40)
    # Each needs five pages in the end, and all three have two at first: 9 pages are not enough for three.
    engine = engine_of(folder, kind, 3, 96, page_size=16, num_pages=9)
    seen = watch(engine, requests, 3, monkeypatch)
    assert max(sequence.preemptions for step in seen.steps for sequence in step.sequences) >= 1
    assert_same(model, requests, seen, TOLERANCE[kind])


@pytest.mark.parametrize("kind", DEVICES)
def test_prompts_that_begin_alike(saved, kind, monkeypatch):
    model, folder = saved
    requests = prompts((50, 40, 61, 50), osl=8, shared=37)
    engine = engine_of(folder, kind, 2, 96, page_size=16, prefix_caching=True)
    seen = watch(engine, requests, 2, monkeypatch)
    # The third and fourth find the two whole pages of the 37 tokens; the second comes in the same step as the first.
    assert min(int(step.starts[step.decodes]) for step in seen.steps if step.decodes < len(step.rows)) == 0
    assert [int(step.starts[-1]) for step in seen.steps if step.chunks][-1] == 32
    assert_same(model, requests, seen, TOLERANCE[kind])


def test_tokens_without_overlap_are_the_same(saved, monkeypatch):
    _, folder = saved
    requests = prompts((5, 16, 40), osl=8)
    runs = []
    for overlap in (True, False):
        engine = engine_of(folder, "cpu", 2, 96, page_size=16, overlap=overlap)
        runs.append(watch(engine, requests, 2, monkeypatch).tokens)
        monkeypatch.undo()
    assert runs[0] == runs[1]


SAMPLINGS = {
    "top-k and top-p": Sampling(temperature=0.9, top_k=40, top_p=0.9),
    "whole": Sampling(temperature=0.7, min_p=0.02),
    "top-p": Sampling(temperature=1.2, top_p=0.95),
    "penalty": Sampling(temperature=0.9, top_k=20, repetition_penalty=1.3),
}


def test_a_sampled_request_gets_the_same_tokens_in_any_batch(tmp_path):
    make("llama", tmp_path)
    kinds = list(SAMPLINGS.values())
    requests = [
        replace(request, sampling=kinds[place % len(kinds)], seed=place)
        for place, request in enumerate(prompts((30, 9, 28, 40, 26, 3), osl=30))
    ]
    greedy = prompts((30, 9, 28, 40, 26, 3), osl=30)
    served: list[dict[int, list[int]]] = []
    # Alone; together with others, among them greedy ones; and so that some give way and go on later.
    runs: tuple[tuple[int, list[Request], dict[str, Any]], ...] = (
        (1, requests, {}),
        (4, [*requests, *(replace(request, index=9 + request.index) for request in greedy)], {}),
        (4, requests[::-1], {"num_pages": 9}),
        (4, requests, {"overlap": False, "max_step_tokens": 16}),
    )
    for concurrency, asked, options in runs:
        engine, tokens = engine_of(tmp_path, "cpu", concurrency, 96, page_size=16, **options), {}
        for event in engine.serve(closed(asked, concurrency), clock=lambda: 0.0):
            tokens.setdefault(event.request_index, []).extend(event.token_ids)
        served.append({request.index: tokens[request.index] for request in requests})
    assert served[0] == served[1] == served[2] == served[3]
    # Another seed, other tokens; and none of them those of a greedy request.
    (other,) = [replace(requests[0], seed=77)]
    tokens = [event.token_ids[0] for event in engine.serve(closed([other], 1), clock=lambda: 0.0)]
    assert tokens != served[0][0]


def test_a_stop_token_ends_a_request_and_is_its_last(tmp_path):
    make("llama", tmp_path)
    (request,) = prompts((20,), osl=24)
    engine = engine_of(tmp_path, "cpu", 2, 96, page_size=16)
    tokens = [event.token_ids[0] for event in engine.serve(closed([request], 1), clock=lambda: 0.0)]
    stop = tokens[7]
    stopped = replace(request, sampling=Sampling(stop_token_ids=(stop,)))
    events = list(engine.serve(closed([stopped, replace(request, index=1)], 2), clock=lambda: 0.0))
    first = [event for event in events if event.request_index == 0]
    assert [event.token_ids[0] for event in first] == tokens[: tokens.index(stop) + 1]
    assert [event.is_last for event in first][-2:] == [False, True]
    assert [event.token_ids[0] for event in events if event.request_index == 1] == tokens
