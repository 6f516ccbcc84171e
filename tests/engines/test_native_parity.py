"""Engine `native` computes the same model as transformers: same logits, same greedy tokens, from the same files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.engines.families import CONFIGS, VOCABULARY, make
from transformers import PreTrainedModel

from tokenwatt.engines.native.batch import Batch
from tokenwatt.engines.native.engine import NativeEngine
from tokenwatt.engines.native.runner import Runner
from tokenwatt.engines.native.scheduler import Step
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import Request

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
    for event in engine.serve(iter(requests), concurrency, clock=lambda: 0.0):
        assert event.refusal is None
        seen.tokens[event.request_index] += event.token_ids
    return seen


def engine_of(
    folder: Path, kind: Any, concurrency: int, longest: int, *, loads: bool = True, **options
) -> NativeEngine:
    spec = BenchSpec(
        engine="native", model=str(folder), weights=str(folder), dtype="float32", device=kind, workloads=("chat",),
        concurrency=(concurrency,), options=options,
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
