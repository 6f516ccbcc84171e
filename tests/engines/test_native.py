"""Engine `native` at its edges: that it serves a closed loop, and which requests it refuses while others go on."""

import json
import os
import subprocess
import sys
import weakref
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.factories import closed

from tokenwatt.engines import open_engine
from tokenwatt.engines.native.checkpoint import INIT_STD, RandomWeights
from tokenwatt.engines.native.engine import NativeEngine
from tokenwatt.engines.native.mlp import GatedMlp
from tokenwatt.engines.native.model import Decoder
from tokenwatt.engines.native.weights import build_decoder
from tokenwatt.engines.protocol import Failure
from tokenwatt.errors import EngineError, UserError
from tokenwatt.model_config import load_architecture
from tokenwatt.record import RequestStatus
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import Request

TINY = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY), encoding="utf-8")
    return tmp_path


def spec(folder, **changes) -> BenchSpec:
    settings = {"model": str(folder), "dtype": "float32", "device": "cpu", "concurrency": (2,), **changes}
    return BenchSpec.model_validate({"engine": "native", "workloads": ("chat",), **settings})


def loaded(folder, concurrency: int = 2, longest: int = 16, **options) -> NativeEngine:
    engine = NativeEngine(spec(folder, options=options))
    engine.load(max_concurrency=concurrency, longest_context=longest)
    return engine


def requests(count: int, isl: int = 5, osl: int = 4) -> list[Request]:
    return [Request(index, np.full(isl, index, dtype=np.int32), osl) for index in range(count)]


def tokens_of(engine: NativeEngine, asked: list[Request], concurrency: int = 2) -> dict[int, list[int]]:
    """Every request's tokens; no request may be refused."""
    tokens = defaultdict(list)
    for event in engine.serve(closed(asked, concurrency), clock=lambda: 0.0):
        assert event.failure is None
        tokens[event.request_index] += event.token_ids
    return dict(tokens)


def test_a_closed_loop_answers_everything_and_never_runs_more_than_its_slots(folder):
    engine = open_engine(spec(folder))
    engine.load(max_concurrency=2, longest_context=16)
    engine.warm_up(requests(2), 2, clock=lambda: 0.0)
    events = list(engine.serve(closed(requests(5), 2), clock=lambda: 0.0))
    assert sorted(event.request_index for event in events if event.is_last) == [0, 1, 2, 3, 4]
    assert len(events) == 5 * 4
    assert max(event.running for event in events) == 2


@pytest.mark.parametrize("longest_context", [9, 17, 64])
def test_warm_up_stays_within_the_longest_context(folder, longest_context):
    loaded(folder, longest=longest_context).warm_up(requests(2), 2, clock=lambda: 0.0)


def test_an_abandoned_run_gives_its_slots_and_pages_back(folder):
    engine = loaded(folder)
    expected = tokens_of(engine, requests(3))
    stream = engine.serve(closed(requests(9), 2), clock=lambda: 0.0)
    next(stream)
    stream.close()
    assert tokens_of(engine, requests(3)) == expected


def test_a_second_run_waits_for_the_end_of_the_first(folder):
    engine = loaded(folder)
    first = engine.serve(closed(requests(3), 2), clock=lambda: 0.0)
    next(first)
    with pytest.raises(EngineError, match="a run is under way; close it before the next begins"):
        next(engine.serve(closed(requests(3), 2), clock=lambda: 0.0))
    first.close()
    assert len(tokens_of(engine, requests(3))) == 3


def test_close_gives_the_memory_back(folder):
    engine = loaded(folder)
    tokens_of(engine, requests(3))
    runner = weakref.ref(engine._ready.runner)
    engine.close()
    assert runner() is None


def test_after_an_error_in_a_step_the_engine_wants_a_new_load(folder, monkeypatch):
    engine = loaded(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory is left")))
        with pytest.raises(EngineError, match="out of GPU memory: no memory is left"):
            tokens_of(engine, requests(3))
    with pytest.raises(EngineError, match="the engine is not loaded; call load"):
        tokens_of(engine, requests(3))
    engine.load(2, 16)
    assert len(tokens_of(engine, requests(3))) == 3


def test_an_engine_serves_only_while_it_is_loaded(folder):
    engine = NativeEngine(spec(folder))
    with pytest.raises(EngineError, match="the engine is not loaded; call load"):
        next(engine.serve(closed(requests(1), 1), clock=lambda: 0.0))
    engine.load(max_concurrency=1, longest_context=16)
    engine.close()
    with pytest.raises(EngineError, match="the engine is not loaded; call load"):
        next(engine.serve(closed(requests(1), 1), clock=lambda: 0.0))


EVERY_MODEL = {"attention.decode", "attention.prefill", "fused.norm", "fused.rope", "fused.top_k", "matmul.skinny"}
EXPERTS = {"moe.route", "moe.grouped", "moe.grouped combine"}
INTERPRETED = {
    "qwen3": ({"num_hidden_layers": 1}, {"matmul.dense"}),
    "mixtral": ({"num_hidden_layers": 1, "num_local_experts": 4, "num_experts_per_tok": 2}, {"matmul.dense", *EXPERTS}),
    "gemma3_text": (
        {
            "query_pre_attn_scalar": 24,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        {"matmul.dense", "fused.norm residual"},
    ),
    "deepseek_v3": (
        {
            "num_hidden_layers": 1,
            "num_key_value_heads": 4,
            "first_k_dense_replace": 0,
            "n_routed_experts": 16,
            "num_experts_per_tok": 3,
            "n_shared_experts": 1,
            "n_group": 4,
            "topk_group": 2,
            "moe_intermediate_size": 32,
            "q_lora_rank": 32,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 16,
            "v_head_dim": 16,
        },
        {"matmul.dense", *EXPERTS},
    ),
}
"""Changes of TINY, and the kernels that such a model wants beside those of every model."""


@pytest.mark.parametrize(
    "family",
    ["qwen3", "mixtral", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma3_text", "deepseek_v3"))],
)
def test_the_triton_kernels_give_the_logits_of_their_references(tmp_path, family):
    # Interpreted, in a process of its own: the strides, dtypes and tables that the engine really hands to the kernels.
    changes, kernels = INTERPRETED[family]
    config = {**TINY, "model_type": family, "max_position_embeddings": 128, **changes}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    script = Path(__file__).parent / "interpreted" / "serve.py"
    command = [sys.executable, str(script), str(tmp_path)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert set(outcome["launches"]) == EVERY_MODEL | kernels
    # Three tokens of each of three requests.
    assert outcome["rows"] == 9
    assert outcome["largest"] > 1
    assert outcome["error"] < 1e-5 * outcome["largest"]


def down_of(decoder: Decoder) -> torch.Tensor:
    """The last projection of the second layer."""
    mlp = decoder.layers[1].mlp
    assert isinstance(mlp, GatedMlp)
    assert isinstance(mlp.down.weight, torch.Tensor)
    return mlp.down.weight


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(folder):
    architecture, cpu = load_architecture(str(folder)), torch.device("cpu")
    first, again, other = (
        build_decoder(architecture, RandomWeights(torch.float32, cpu, seed), 16) for seed in (0, 0, 1)
    )
    assert torch.equal(down_of(first), down_of(again))
    assert not torch.equal(down_of(first), down_of(other))
    assert torch.equal(first.layers[1].mlp_norm, torch.ones(32))
    # 128 x 32 draws: the spread is known to 1 / sqrt(2 x 4096) = 1.1 %.
    assert first.embedding.std().item() == pytest.approx(INIT_STD, rel=0.05)


GOOD = np.arange(5, dtype=np.int32)

REFUSED = {
    "empty": (np.zeros(0, dtype=np.int32), 4, "the prompt is empty; it needs at least one token"),
    "long": (np.zeros(20, dtype=np.int32), 1, "20 prompt tokens and 1 to come exceed the context that was loaded, 20"),
    "budget": (GOOD, 16, "5 prompt tokens and 16 to come exceed the context that was loaded, 20 tokens"),
    "none to come": (GOOD, 0, "max_tokens must be >= 1, got 0"),
    "fewer to come": (GOOD, -3, "max_tokens must be >= 1, got -3"),
    "negative": (np.array([3, -1], dtype=np.int32), 4, "token id -1 is not in the vocabulary of "),
    "beyond": (np.array([3, 128], dtype=np.int32), 4, ": 0 to 127"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_cannot_be_served_is_refused_and_the_others_are_answered(case, folder):
    prompt, max_tokens, reason = REFUSED[case]
    engine = loaded(folder, longest=20)
    good = requests(4)
    expected = tokens_of(engine, good)
    asked = [good[0], Request(9, prompt, max_tokens), *good[1:3], Request(8, prompt, max_tokens), good[3]]
    events = list(engine.serve(closed(asked, 2), clock=lambda: 7.0))
    refused = [event for event in events if event.failure is not None]
    assert [event.request_index for event in refused] == [9, 8]
    for event in refused:
        assert (event.at_s, event.tokens, event.is_last, event.token_ids) == (7.0, 0, True, ())
        assert reason in str(event.failure)
    tokens = {index: [event.token_ids[0] for event in events if event.request_index == index] for index in range(4)}
    assert tokens == expected
    assert max(event.running for event in events) == 2


def test_requests_that_are_all_refused_end_the_run(folder):
    events = list(loaded(folder).serve(closed(requests(7, isl=40), 2), clock=lambda: 0.0))
    assert [event.request_index for event in events] == [0, 1, 2, 3, 4, 5, 6]
    assert all(event.failure for event in events)


def test_a_request_that_can_never_have_its_pages_is_refused(folder):
    # Two pages of 16 hold 32 tokens, and the last token is never stored: 33 are served, 34 are not.
    engine = loaded(folder, longest=64, page_size=16, num_pages=2)
    fits, too_long = Request(0, np.zeros(30, dtype=np.int32), 3), Request(1, np.zeros(30, dtype=np.int32), 4)
    events = list(engine.serve(closed([too_long, fits], 2), clock=lambda: 0.0))
    assert events[0].failure == Failure(RequestStatus.REFUSED, "the request needs 3 pages of the KV cache, which has 2")
    assert [event.request_index for event in events] == [1, 0, 0, 0]


def test_a_budget_below_the_concurrency_counts_as_the_concurrency(folder):
    # Three that decode take a token each in every step, and prompts one by one whatever is left of three.
    expected = tokens_of(loaded(folder, concurrency=3), requests(6), 3)
    assert tokens_of(loaded(folder, concurrency=3, max_step_tokens=1), requests(6), 3) == expected


def test_what_the_model_cannot_serve_is_refused_before_loading(folder):
    engine = open_engine(spec(folder))
    with pytest.raises(UserError, match="a request may reach 65 tokens, .* allows 64"):
        engine.check(longest_context=65, vocabulary=128)
    with pytest.raises(UserError, match="workload vocabulary is 129, .* knows 128 tokens"):
        engine.check(longest_context=64, vocabulary=129)
    engine.check(longest_context=64, vocabulary=128)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(folder):
    with pytest.raises(UserError, match="device 'cuda' was asked for, but torch finds no GPU"):
        open_engine(spec(folder, device="cuda"))
