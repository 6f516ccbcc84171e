"""Engine `native` at its edges: what it refuses, and that it serves a closed loop."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenwatt.engines import open_engine
from tokenwatt.engines.native.checkpoint import RandomWeights
from tokenwatt.engines.native.engine import NativeEngine
from tokenwatt.engines.native.weights import build_decoder
from tokenwatt.errors import EngineError, UserError
from tokenwatt.model_config import load_architecture
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


def requests(count: int, isl: int = 5, osl: int = 4):
    return [Request(index, np.full(isl, index, dtype=np.int32), osl) for index in range(count)]


def test_a_closed_loop_answers_everything_and_never_runs_more_than_its_slots(folder):
    engine = open_engine(spec(folder))
    engine.load(max_concurrency=2, longest_context=16)
    engine.warm_up(requests(2), 2, clock=lambda: 0.0)
    events = list(engine.serve(iter(requests(5)), 2, clock=lambda: 0.0))
    assert sorted(event.request_index for event in events if event.is_last) == [0, 1, 2, 3, 4]
    assert len(events) == 5 * 4
    assert max(event.running for event in events) == 2


@pytest.mark.parametrize("longest_context", [9, 17, 64])
def test_warm_up_stays_within_the_longest_context(folder, longest_context):
    engine = open_engine(spec(folder))
    engine.load(max_concurrency=2, longest_context=longest_context)
    engine.warm_up(requests(2), 2, clock=lambda: 0.0)


def test_an_abandoned_run_leaves_room_for_the_next(folder):
    engine = NativeEngine(spec(folder))
    engine.load(max_concurrency=2, longest_context=16)
    stream = engine.serve(iter(requests(9)), 2, clock=lambda: 0.0)
    next(stream)
    assert engine._loaded is not None
    assert not engine._loaded.table.has_room
    stream.close()
    assert engine._loaded.table.has_room
    events = list(engine.serve(iter(requests(5)), 2, clock=lambda: 0.0))
    assert len(events) == 5 * 4


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


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(folder):
    architecture, cpu = load_architecture(str(folder)), torch.device("cpu")
    first, again, other = (
        build_decoder(architecture, RandomWeights(torch.float32, cpu, seed), 64, "none") for seed in (0, 0, 1)
    )
    assert torch.equal(first.embedding, again.embedding)
    assert not torch.equal(first.embedding, other.embedding)
    # 128 x 32 draws: the spread is known to 1 / sqrt(2 x 4096) = 1.1 %.
    assert first.embedding.std().item() == pytest.approx(0.02, rel=0.05)


def test_what_cannot_work_is_refused_before_loading(folder):
    with pytest.raises(UserError, match="needs a model"):
        open_engine(spec(folder, model=None))
    with pytest.raises(UserError, match="no such weights folder: absent; allowed: 'random', a folder"):
        open_engine(spec(folder, weights="absent"))
    with pytest.raises(UserError, match="holds neither model.safetensors nor"):
        open_engine(spec(folder, weights=str(folder)))
    engine = open_engine(spec(folder))
    with pytest.raises(UserError, match="a request may reach 65 tokens, .* allows 64"):
        engine.check(longest_context=65, vocabulary=128)
    with pytest.raises(UserError, match="workload vocabulary is 129, .* knows 128 tokens"):
        engine.check(longest_context=64, vocabulary=129)


def test_damaged_weights_are_named(folder):
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00")
    with pytest.raises(UserError, match="damaged or cut short"):
        open_engine(spec(folder, weights=str(folder)))


def test_weights_of_another_model_are_named(folder):
    from safetensors.torch import save_file

    save_file({"model.embed_tokens.weight": torch.zeros(7, 32)}, folder / "model.safetensors")
    engine = open_engine(spec(folder, weights=str(folder)))
    with pytest.raises(UserError, match=r"embed_tokens.weight' has shape \(7, 32\), config.json demands \(128, 32\)"):
        engine.load(1, 16)
    save_file({"model.embed_tokens.weight": torch.zeros(128, 32)}, folder / "model.safetensors")
    engine = open_engine(spec(folder, weights=str(folder)))
    with pytest.raises(UserError, match=r"no tensor 'model.layers.0.self_attn.q_proj.weight'"):
        engine.load(1, 16)


def test_a_model_that_does_not_fit_says_how_much_is_missing(folder, monkeypatch):
    engine = NativeEngine(spec(folder))
    monkeypatch.setattr("tokenwatt.engines.native.loading.free_bytes", lambda device: 1000)
    with pytest.raises(EngineError, match=r"needs weights 0.00 GB \+ .* = 0.00 GB, 0.00 GB are free"):
        engine.load(1, 16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(folder):
    with pytest.raises(UserError, match="device 'cuda' was asked for, but torch finds no GPU"):
        open_engine(spec(folder, device="cuda"))
