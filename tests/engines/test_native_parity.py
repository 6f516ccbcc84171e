"""Engine `native` computes the same model as transformers: same logits, same greedy tokens, from the same files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from tokenwatt.architecture import load_architecture
from tokenwatt.engines.native.batch import prepare
from tokenwatt.engines.native.engine import NativeEngine
from tokenwatt.engines.native.kv_cache import KvCache
from tokenwatt.engines.native.model import Decoder
from tokenwatt.engines.native.scheduler import Sequence, Step
from tokenwatt.engines.native.weights import load_weights
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import Request

SHAPE = {
    "vocab_size": 512,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE, head_dim=16, tie_word_embeddings=False),
    "llama-tied-scaled-rope": LlamaConfig(**SHAPE, head_dim=16, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=True),
}
STEPS = 32
# Largest difference of a logit in fp32: a GPU sums in another order.
TOLERANCE = {"cpu": 1e-4, "cuda": 1e-3}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=CONFIGS)
def saved(request, tmp_path_factory):
    """A random transformers model with norms that are not all one, and the folder that it was saved to."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param], dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder, max_shard_size="200KB" if request.param == "qwen3" else "5GB")
    return model, folder


def prompts(*lengths: int) -> list[Request]:
    rng = np.random.default_rng(1)
    return [
        Request(index, rng.integers(0, SHAPE["vocab_size"], size, dtype=np.int32), STEPS)
        for index, size in enumerate(lengths)
    ]


def greedy(model, prompt: np.ndarray) -> list[int]:
    ids = torch.tensor(prompt, dtype=torch.int64)[None]
    out = model.generate(ids, max_new_tokens=STEPS, do_sample=False, pad_token_id=0)
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", DEVICES)
@torch.inference_mode()
def test_prefill_and_decode_logits_agree(saved, kind):
    model, folder = saved
    architecture = load_architecture(str(folder))
    device = torch.device(kind)
    decoder = Decoder(architecture, load_weights(architecture, folder, torch.float32, device), 64)
    cache = KvCache(architecture, 16, torch.float32, device)
    sequences = [Sequence(request, np.array(cache.allocate(40), dtype=np.int32)) for request in prompts(1, 17, 33)]

    logits = decoder.forward(prepare(Step(True, sequences), device), cache)
    for sequence, row in zip(sequences, logits, strict=True):
        expected = model(torch.tensor(sequence.request.prompt, dtype=torch.int64)[None]).logits[0, -1]
        assert (row.cpu() - expected).abs().max() <= TOLERANCE[kind]
        sequence.last_token, sequence.generated = int(row.argmax()), 1

    logits = decoder.forward(prepare(Step(False, sequences), device), cache)
    for sequence, row in zip(sequences, logits, strict=True):
        ids = torch.tensor([*sequence.request.prompt, sequence.last_token], dtype=torch.int64)[None]
        assert (row.cpu() - model(ids).logits[0, -1]).abs().max() <= TOLERANCE[kind]


@pytest.mark.parametrize("kind", DEVICES)
def test_the_served_tokens_are_those_of_generate(saved, kind):
    model, folder = saved
    spec = BenchSpec(
        engine="native",
        model=str(folder),
        weights=str(folder),
        dtype="float32",
        device=kind,
        workloads=("chat",),
        concurrency=(3,),
    )
    engine = NativeEngine(spec)
    engine.load(max_concurrency=3, longest_context=96)
    requests = prompts(5, 16, 40, 7, 1)
    served: dict[int, list[int]] = {request.index: [] for request in requests}
    for event in engine.serve(iter(requests), 3, clock=lambda: 0.0):
        served[event.request_index] += event.token_ids
    for request in requests:
        assert served[request.index] == greedy(model, request.prompt), f"request {request.index}"
