"""The gate: right engines pass, wrong models do not, and what it is not for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from tests.accuracy.engines import loaded, scored, spec_of
from tests.accuracy.trained import train
from tests.accuracy.wrong_models import UNSEEN, WRONG, WrongModel
from transformers.cache_utils import DynamicLayer

from tokenwatt.analysis.agreement import Agreement, compare
from tokenwatt.bench.accuracy import gate_of
from tokenwatt.bench.accuracy.gate import PLAIN_LIMIT, QUANTISED_LIMIT, decoding_of, default_limit
from tokenwatt.bench.accuracy.pieces import pieces_of
from tokenwatt.engines import open_engine
from tokenwatt.engines.protocol import Continuation, Engine, EngineIdentity, scorer_of
from tokenwatt.errors import EngineError, UserError
from tokenwatt.spec import AccuracySpec, BenchSpec

RATIO = AccuracySpec().max_perplexity_ratio


@pytest.fixture(scope="module")
def pieces(trained) -> list[np.ndarray]:
    return pieces_of(AccuracySpec(sequences=6), str(trained), 40, 0)


@pytest.fixture(scope="module")
def expected(trained, pieces) -> Sequence[np.ndarray]:
    return scored(spec_of(trained, "hf_transformers"), pieces)


def objections(agreement: Agreement, limit: float) -> list[str]:
    return agreement.objections(limit, RATIO)


@pytest.mark.parametrize(
    ("engine", "dtype", "options", "least", "most"),
    [
        # Seen, nats per token: least and most are a third and three times of it.
        ("native", "float32", {}, 0.0, 2e-6),
        pytest.param("native", "float16", {}, 0.0003, 0.003, marks=pytest.mark.slow),
        ("native", "bfloat16", {}, 0.0025, 0.025),
        pytest.param("hf_transformers", "bfloat16", {"mode": "generate"}, 0.0025, 0.025, marks=pytest.mark.slow),
        ("native", "bfloat16", {"quantization": "fp8"}, 0.006, 0.06),
        ("native", "bfloat16", {"quantization": "int4"}, 0.01, 0.1),
        ("native", "bfloat16", {"kv_cache_dtype": "float8_e4m3fn"}, 0.008, 0.08),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_right_engine_agrees(trained, pieces, expected, engine, dtype, options, least, most):
    spec = spec_of(trained, engine, dtype, options=options)
    agreement = compare(scored(spec, pieces), expected)
    limit = default_limit(open_engine(spec).identity)
    is_narrow = options.keys() & {"quantization", "kv_cache_dtype"}
    assert limit == (QUANTISED_LIMIT if is_narrow else PLAIN_LIMIT)
    assert objections(agreement, limit) == []
    assert least <= agreement.mean_difference <= most, agreement


@pytest.mark.parametrize(
    "wrong",
    [pytest.param(wrong, id=wrong.name, marks=() if wrong.is_subtle else pytest.mark.slow) for wrong in WRONG],
)
def test_a_wrong_model_is_rejected_even_by_the_larger_limit(trained, pieces, expected, wrong: WrongModel, tmp_path):
    agreement = compare(scored(spec_of(wrong.make(trained, tmp_path)), pieces), expected)
    assert objections(agreement, QUANTISED_LIMIT), agreement


def test_what_is_smaller_than_rounding_passes(trained, pieces, expected, tmp_path):
    # Not a wish but a fact to know: the gate tells models apart, it does not prove that two are equal.
    agreement = compare(scored(spec_of(UNSEEN.make(trained, tmp_path)), pieces), expected)
    assert 0 < agreement.mean_difference < PLAIN_LIMIT
    assert objections(agreement, PLAIN_LIMIT) == []


def test_weights_that_know_nothing_hide_a_wrong_model(pieces, tmp_path):
    # Why the gate wants weights that mean something: a rotary base 50 times too large is lost among even probabilities.
    right, other = tmp_path / "right", tmp_path / "wrong"
    train(right, steps=0)
    wrong = next(wrong for wrong in WRONG if wrong.name == "rotary base 500000").make(right, other)
    agreement = compare(*(scored(spec_of(folder), pieces) for folder in (wrong, right)))
    assert objections(agreement, PLAIN_LIMIT) == []


@pytest.mark.parametrize(
    ("quantization", "cache", "limit"),
    [
        ("none", "bfloat16", PLAIN_LIMIT),
        ("none", None, PLAIN_LIMIT),
        ("none", "auto", PLAIN_LIMIT),
        ("none", "fp8", QUANTISED_LIMIT),
        ("none", "float8_e4m3fn", QUANTISED_LIMIT),
        ("awq", "bfloat16", QUANTISED_LIMIT),
        (None, "bfloat16", QUANTISED_LIMIT),
    ],
)
def test_the_default_limit_goes_by_what_the_engine_says_of_its_formats(quantization, cache, limit):
    identity = EngineIdentity(
        "e", "1", "m", "bfloat16", "safetensors", "cpu", (), quantization=quantization, kv_cache_dtype=cache
    )
    assert default_limit(identity) == limit


def gate_for(spec: BenchSpec, longest_context: int = 65) -> tuple[Any, Engine]:
    engine = open_engine(spec)
    return gate_of(spec, engine, longest_context, 256), engine


def test_the_reference_is_closed_before_the_engine_is_loaded(trained):
    accuracy = AccuracySpec(sequences=2)
    gate, engine = gate_for(spec_of(trained, dtype="bfloat16", accuracy=accuracy))
    assert [len(piece) for piece in gate.pieces] == [64, 64]
    assert gate.accuracy.status == "not_checked"
    gate.refer()
    with pytest.raises(EngineError, match="not loaded"):
        gate.reference.prompt_logprobs(gate.pieces)
    engine.load(2, 65)
    found = gate.check(engine)
    assert found.status == "agrees"
    assert found.reference.startswith("hf_transformers.generate ")
    assert found.reference.endswith(" sdpa, float32")
    assert found.detail == "allowed 0.03 nats, ratio 1.05; contexts to 64 tokens"
    assert found.agreement.tokens == 2 * 63


def test_weights_that_nobody_trained_are_no_ground_for_a_verdict(tmp_path):
    train(tmp_path, steps=0)
    gate, engine = gate_for(spec_of(tmp_path, dtype="bfloat16", accuracy=AccuracySpec(sequences=2)))
    gate.refer()
    engine.load(2, 65)
    found = gate.check(engine)
    assert found.status == "not_applicable"
    assert "its weights are untrained, and wrong models would agree with it" in found.detail


def test_limits_of_one_s_own_decide(trained):
    accuracy = AccuracySpec(sequences=2, max_mean_difference=1e-5)
    gate, engine = gate_for(spec_of(trained, dtype="bfloat16", accuracy=accuracy))
    gate.refer()
    engine.load(2, 65)
    found = gate.check(engine)
    assert found.status == "disagrees"
    assert "nats > 1e-05" in found.detail


def test_native_can_be_the_reference_of_transformers(trained):
    accuracy = AccuracySpec(reference="native", sequences=1)
    gate, _ = gate_for(spec_of(trained, "hf_transformers", accuracy=accuracy))
    gate.refer()
    assert gate.check(loaded(spec_of(trained, "hf_transformers"))).agreement.mean_difference < 1e-5


@dataclass(frozen=True)
class Drawing:
    """A token is as probable as exp(-its id), but for those that it decodes, which are `off` nats from that."""

    off: float
    scores_by_decoding = False

    def prompt_logprobs(self, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
        assert max(map(len, prompts)) <= 40
        return [-prompt[1:].astype(np.float64) for prompt in prompts]

    def continuations(self, prompts: Sequence[np.ndarray], count: int) -> list[Continuation] | None:
        # One ends sooner than asked, as those of a server may.
        drawn = [np.arange(1, count + 1 - (place == 0), dtype=np.int32) for place, _ in enumerate(prompts)]
        return [Continuation(tokens, -tokens - self.off) for tokens in drawn]


def test_what_an_engine_decodes_is_held_against_its_own_prompts():
    pieces = [np.ones(length, dtype=np.int32) for length in (40, 40, 3)]
    found, right = (decoding_of(Drawing(off), pieces) for off in (0.25, 0.0))
    # 512 tokens over 3 pieces are more than half of the longest: 20 of each, but for the one that ends sooner.
    assert found is not None
    assert right is not None
    assert (found.tokens, found.mean_difference) == (59, pytest.approx(0.25))
    assert right.mean_difference == 0.0


@pytest.mark.parametrize("mode", ["generate", "continuous_batching"])
def test_transformers_decode_as_they_prefill(trained, pieces, mode):
    scorer = scorer_of(loaded(spec_of(trained, "hf_transformers", options={"mode": mode})))
    assert scorer is not None
    found = decoding_of(scorer, pieces)
    assert found is not None
    assert found.tokens == len(pieces) * 20
    assert found.mean_difference < 1e-5
    assert found.reference_spread > 0.5  # of tokens that are drawn, not of those that are likeliest


def test_decoding_that_differs_is_a_red_gate(trained, monkeypatch):
    gate, _ = gate_for(spec_of(trained, "hf_transformers", accuracy=AccuracySpec(sequences=2)))
    gate.refer()
    engine = loaded(spec_of(trained, "hf_transformers"))
    right = gate.check(engine)
    assert (right.status, right.decoding.tokens) == ("agrees", 2 * 32)
    assert right.detail == "allowed 0.03 nats, ratio 1.05; contexts to 64 tokens"
    # A cache whose keys are one place off: all that is drawn by it is wrong, and prompts, which need none, are right.
    monkeypatch.setattr(DynamicLayer, "update", _shifted(DynamicLayer.update))
    wrong = gate.check(engine)
    assert (wrong.status, wrong.agreement.mean_difference) == ("disagrees", right.agreement.mean_difference)
    assert "decoding" in wrong.detail
    monkeypatch.undo()
    monkeypatch.setattr(type(engine), "continuations", lambda *_: None)
    silent = gate.check(engine)
    assert (silent.status, silent.decoding) == ("agrees", None)
    assert silent.detail.endswith("prompts alone: it does not tell how it decodes")


def _shifted(update: Any) -> Any:
    def one_place_off(self: Any, keys: Any, values: Any, *rest: Any, **more: Any) -> Any:
        keys, values = update(self, keys, values, *rest, **more)
        return keys.roll(1, dims=2), values

    return one_place_off


def test_random_weights_have_no_reference(trained):
    gate, _ = gate_for(spec_of(trained, weights="random", accuracy=AccuracySpec()))
    assert gate.accuracy.status == "not_applicable"
    assert "weights are random" in gate.accuracy.detail
    gate.refer()


def test_without_a_table_there_is_no_gate(trained):
    assert gate_for(spec_of(trained))[0] is None


def test_an_engine_without_probabilities_is_refused_before_anything_runs(trained):
    for engine, reference in (("fake", "native"), ("native", "fake")):
        spec = spec_of(trained, engine, accuracy=AccuracySpec(reference=reference))
        with pytest.raises(
            UserError, match="compares probabilities of tokens, and (engine|reference) 'fake' tells none"
        ):
            gate_for(spec)


def test_a_reference_that_fails_says_which_it_was(trained):
    gate, _ = gate_for(spec_of(trained, accuracy=AccuracySpec(sequences=1)))
    gate.pieces = [np.array([0, 10**6], dtype=np.int32)]
    with pytest.raises(EngineError, match="reference engine hf_transformers.generate: prompt 0 cannot be scored"):
        gate.refer()
