"""Two processes that share a model give the tokens of one."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import torch
from tests.engines.families import make
from tests.engines.test_native_parity import engine_of, prompts
from tests.factories import closed

from tokenwatt.architecture import GroupedAttention, MixtureOfExperts
from tokenwatt.engines.native.parallel import share_of
from tokenwatt.errors import EngineError, UserError
from tokenwatt.model_config import load_architecture


def tokens_of(engine, requests, concurrency=2):
    events = engine.serve(closed(requests, concurrency), clock=lambda: 0.0)
    return [(event.request_index, event.token_ids) for event in events]


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt-oss", "deepseek-v3"])
def test_two_ranks_give_the_tokens_of_one(family, tmp_path):
    make(family, tmp_path)
    requests = prompts((5, 40, 17), osl=8)
    alone, shared = (engine_of(tmp_path, "cpu", 2, 96, page_size=16, tensor_parallel=size) for size in (1, 2))
    try:
        for _ in range(2):  # a second run begins with empty pages on both ranks
            assert tokens_of(shared, requests) == tokens_of(alone, requests)
    finally:
        shared.close()


def test_a_run_that_is_cut_leaves_both_ranks_in_step(tmp_path):
    make("llama", tmp_path)
    requests = prompts((5, 40, 17), osl=8)
    alone, shared = (engine_of(tmp_path, "cpu", 2, 96, page_size=16, tensor_parallel=size) for size in (1, 2))
    try:
        events = shared.serve(closed(requests, 2), clock=lambda: 0.0)
        for _ in range(5):
            next(events)
        events.close()
        assert tokens_of(shared, requests) == tokens_of(alone, requests)
    finally:
        shared.close()


def test_a_rank_that_dies_is_named(tmp_path):
    make("llama", tmp_path)
    shared = engine_of(tmp_path, "cpu", 2, 96, page_size=16, tensor_parallel=2)
    try:
        events = shared.serve(closed(prompts((5, 40, 17), osl=24), 2), clock=lambda: 0.0)
        next(events)
        assert shared._followers is not None
        pid = shared._followers._processes[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="tokenwatt-rank-1 ended with exit code -9|rank 1 of 2 has ended"):
            list(events)
    finally:
        shared.close()


def test_what_a_rank_holds():
    # Llama-3.1-8B over 4 GPUs: 32 query and 8 KV heads, 14336 / 4 = 3584 columns of gate and up.
    share = share_of(load_architecture("Llama-3.1-8B"), 4)
    assert isinstance(share.attention, GroupedAttention)
    assert (share.attention.num_attention_heads, share.attention.num_key_value_heads) == (8, 2)
    assert share.layers[0].mlp.intermediate_size == 3584
    # Fewer KV heads than ranks: each has one, some the same.
    share = share_of(load_architecture("Qwen3-30B-A3B"), 8)
    assert isinstance(share.attention, GroupedAttention)
    assert (share.attention.num_attention_heads, share.attention.num_key_value_heads) == (4, 1)
    assert isinstance(share.layers[0].mlp, MixtureOfExperts)
    assert (share.layers[0].mlp.num_experts, share.layers[0].mlp.intermediate_size) == (128, 96)


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(UserError, match="num_attention_heads 9 cannot be shared by 2 GPUs"):
        share_of(load_architecture("SmolLM2-135M"), 2)
    model = load_architecture("Qwen3-30B-A3B")
    model = replace(model, attention=replace(model.attention, num_attention_heads=36))
    with pytest.raises(UserError, match="num_key_value_heads 4 and 6 GPUs do not divide one another"):
        share_of(model, 6)
    with pytest.raises(UserError, match="intermediate_size 1536 cannot be shared by 9 GPUs"):
        share_of(load_architecture("SmolLM2-135M"), 9)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("family", ["llama", "deepseek-v3"])
def test_two_gpus_give_the_tokens_of_one(family, tmp_path):
    make(family, tmp_path)
    requests = prompts((5, 40, 17), osl=8)
    alone, shared = (engine_of(tmp_path, "cuda", 2, 96, page_size=16, tensor_parallel=size) for size in (1, 2))
    try:
        assert tokens_of(shared, requests) == tokens_of(alone, requests)
    finally:
        shared.close()


def test_a_rank_that_cannot_load_is_named_and_nobody_waits_for_it(tmp_path):
    make("llama", tmp_path)
    shared = engine_of(tmp_path, "cpu", 2, 96, loads=False, page_size=16, tensor_parallel=2)
    (tmp_path / "model.safetensors").unlink()  # it was there when the engine was opened
    with pytest.raises((EngineError, UserError), match="could not load|model.safetensors"):
        shared.load(2, 96)
    shared.close()
