"""Log-probabilities of given tokens by engines `native` and `hf_transformers`, from the same files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.accuracy.engines import loaded, scored, spec_of
from tests.engines.families import VOCABULARY, make
from tests.factories import closed

from tokenwatt.analysis.agreement import compare
from tokenwatt.engines import open_engine
from tokenwatt.engines.native.engine import NativeEngine
from tokenwatt.engines.native.runner import Runner
from tokenwatt.engines.protocol import scorer_of
from tokenwatt.errors import EngineError
from tokenwatt.workloads import Request

FAMILIES = (
    "llama-tied-scaled-rope",
    "mistral",
    "qwen3-moe",
    pytest.param("qwen3", marks=pytest.mark.slow),
    pytest.param("gpt-oss", marks=pytest.mark.slow),
)
EAGER = {"mode": "generate", "attn_implementation": "eager"}
"""gpt-oss has no other."""
LENGTHS = (2, 3, 20, 33, 40)


def prompts(lengths: tuple[int, ...] = LENGTHS) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, VOCABULARY, length, dtype=np.int32) for length in lengths]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    make(request.param, folder)
    return folder


@pytest.fixture
def llama(tmp_path) -> Path:
    make("llama", tmp_path)
    return tmp_path


def test_native_and_transformers_say_the_same_in_float32(family):
    ours = scored(spec_of(family, options={"page_size": 16}), prompts())
    theirs = scored(spec_of(family, "hf_transformers", options=EAGER), prompts())
    assert [len(row) for row in ours] == [length - 1 for length in LENGTHS]
    agreement = compare(ours, theirs)
    # Seen: 1e-6. A logit may differ by 2e-4 (test_native_parity).
    assert agreement.mean_difference < 2e-5, agreement
    assert max(np.abs(one - other).max() for one, other in zip(ours, theirs, strict=True)) < 4e-4


def test_transformers_is_a_softmax_over_the_logits_of_a_forward_pass(llama):
    model = make("llama", llama)
    (prompt,) = prompts((9,))
    logits = model(torch.from_numpy(prompt.astype(np.int64))[None]).logits[0].detach().double().numpy()
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities = exponents / exponents.sum(-1, keepdims=True)
    expected = [np.log(probabilities[place, prompt[place + 1]]) for place in range(8)]
    (found,) = scored(spec_of(llama, "hf_transformers"), [prompt])
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_both_modes_of_transformers_say_the_same(llama):
    generate = scored(spec_of(llama, "hf_transformers"), prompts())
    continuous = scored(spec_of(llama, "hf_transformers", options={"mode": "continuous_batching"}), prompts())
    assert compare(continuous, generate).mean_difference == 0.0


def test_native_says_the_same_however_its_steps_are_cut(llama, monkeypatch):
    steps = []
    inner = Runner.score

    def watched(runner, step, newest, following):
        steps.append(step)
        return inner(runner, step, newest, following)

    monkeypatch.setattr(Runner, "score", watched)
    whole = scored(spec_of(llama), prompts())
    # Two rows in the table: 2 and 3, 20 and 33, then 40 tokens. Of n tokens (n + 1) // 2 come in chunks, but never the
    # last; the others come one by one, those of two prompts together: 0, 15 and 19 steps.
    assert [int(step.counts.sum()) for step in steps if step.chunks] == [1, 2, 10, 17, 20]
    assert sum(not step.chunks for step in steps) == 0 + 15 + 19
    # Chunks of five tokens; and four pages of 16 hold no two of the longer prompts, which come one after the other.
    steps.clear()
    engine = loaded(spec_of(llama, options={"page_size": 16, "num_pages": 4, "max_step_tokens": 5}), 48)
    scorer = scorer_of(engine)
    assert scorer is not None
    cut = scorer.prompt_logprobs(prompts())
    assert [int(step.counts.sum()) for step in steps if step.chunks] == [1, 2, *[5] * 2, *[5] * 3, 2, *[5] * 4]
    assert sum(not step.chunks for step in steps) == 0 + 9 + 15 + 19
    assert compare(cut, whole).mean_difference < 1e-6


def test_a_run_after_scoring_is_the_run_without_it(llama):
    requests = [Request(place, prompt, 6) for place, prompt in enumerate(prompts((20, 30)))]
    runs = []
    for is_scored in (False, True):
        engine = loaded(spec_of(llama))
        scorer = scorer_of(engine)
        if is_scored and scorer is not None:
            scorer.prompt_logprobs(prompts())
        runs.append([event.token_ids for event in engine.serve(closed(requests, 2), clock=lambda: 0.0)])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("engine", ["native", "hf_transformers"])
def test_prompts_that_the_model_does_not_take_are_an_error(llama, engine):
    scorer = scorer_of(loaded(spec_of(llama, engine)))
    assert scorer is not None
    with pytest.raises(EngineError, match=f"prompt 1 cannot be scored: token id {VOCABULARY} is not in the vocabulary"):
        scorer.prompt_logprobs([*prompts((4,)), np.array([1, VOCABULARY], dtype=np.int32)])
    with pytest.raises(EngineError, match="prompt 0 cannot be scored: 300 prompt tokens"):
        scorer.prompt_logprobs(prompts((300,)))


def test_an_engine_that_serves_or_is_shared_scores_nothing(llama):
    engine = loaded(spec_of(llama))
    assert isinstance(engine, NativeEngine)
    events = engine.serve(closed([Request(0, prompts((4,))[0], 8)], 1), clock=lambda: 0.0)
    next(events)
    with pytest.raises(EngineError, match="a run is under way; close it before prompts are scored"):
        engine.prompt_logprobs(prompts((4,)))
    events.close()
    shared = NativeEngine(spec_of(llama, options={"tensor_parallel": 2}))
    with pytest.raises(EngineError, match="scores no prompts with tensor_parallel > 1"):
        shared.prompt_logprobs(prompts((4,)))


def test_the_scripted_engine_tells_no_probabilities():
    fake = open_engine(spec_of(Path(), "fake", options={}))
    assert scorer_of(fake) is None


@pytest.mark.gpu
def test_native_on_a_gpu_says_what_transformers_say_on_a_processor(family):
    ours = scored(spec_of(family, device="cuda", options={"page_size": 16}), prompts())
    theirs = scored(spec_of(family, "hf_transformers", options=EAGER), prompts())
    # A logit may differ by 1e-3 (test_native_parity). Graphs run the second halves.
    assert max(np.abs(one - other).max() for one, other in zip(ours, theirs, strict=True)) < 2e-3
