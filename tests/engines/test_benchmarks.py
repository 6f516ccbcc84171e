"""pytest-benchmark cases of the engine: host wall time of a synchronised call.

Run with --benchmark-enable; without it each case runs once, as a test.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from tests.factories import closed

from tokenwatt.engines.native.accounting import total
from tokenwatt.engines.native.engine import NativeEngine
from tokenwatt.engines.native.sampling import sample
from tokenwatt.engines.native.sampling_batch import SamplingBatch
from tokenwatt.engines.native.serving import Serving
from tokenwatt.environment import measure_ceilings
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import Request, Sampling

# 64 rows of Llama 3.1.
ROWS, VOCABULARY = 64, 128_256
SAMPLINGS = {
    "greedy": Sampling(),
    "top-k 50 and top-p 0.9": Sampling(temperature=0.8, top_k=50, top_p=0.9),
    "whole": Sampling(temperature=0.8, min_p=0.05),
    "top-k 1000": Sampling(temperature=0.8, top_k=1000),
    "top-p 0.9": Sampling(temperature=0.8, top_p=0.9),
    "top-k 50 and a penalty": Sampling(temperature=0.8, top_k=50, repetition_penalty=1.1),
}
DEVICES = [
    pytest.param("cpu", marks=pytest.mark.slow),
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]
    ),
]


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("name", SAMPLINGS)
def test_sampling(benchmark, name, kind):
    device = torch.device(kind)
    generator = torch.Generator(device).manual_seed(0)
    logits = 3 * torch.randn(ROWS, VOCABULARY, generator=generator, device=device)
    batch = SamplingBatch.of([SAMPLINGS[name]] * ROWS, range(ROWS), device)
    positions, seen = torch.arange(ROWS, device=device), logits > 6

    def run():
        tokens = sample(logits, batch, positions, seen)
        if kind == "cuda":
            torch.cuda.synchronize()
        return tokens

    found = benchmark.pedantic(run, warmup_rounds=3, rounds=20)
    assert found.shape == (ROWS,)


ENGINES = [
    pytest.param("cpu", "SmolLM2-135M", "float32", 4, 96, marks=pytest.mark.slow),
    pytest.param(
        "cuda", "Llama-3.1-8B", "bfloat16", 64, 1536,
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")],
    ),
]  # fmt: skip
ROUNDS = 64


@pytest.mark.parametrize(("kind", "model", "dtype", "sequences", "context"), ENGINES)
def test_decode_step(benchmark, kind, model, dtype, sequences, context):
    # Contexts of two thirds to four thirds of the mean; each round gives every sequence a token.
    engine, ceilings = loaded(kind, model, dtype, sequences, 2 * context), measure_ceilings(kind, dtype)
    serving = Serving(engine._ready)
    for place in range(sequences):
        length = context * 2 // 3 + place * (context * 2 // 3) // sequences
        serving.add(Request(place, np.full(length, place, dtype=np.int32), ROUNDS + 64))
    while serving.in_flight and len(serving.advance(time.perf_counter)) < sequences:
        pass
    begin_s = time.perf_counter()
    benchmark.pedantic(serving.advance, (time.perf_counter,), warmup_rounds=8, rounds=ROUNDS)
    work = total(serving.log.between(begin_s, time.perf_counter()).values())
    limit_s = max(work.flop / ceilings.flop_per_s, work.bytes / ceilings.memory_bytes_per_s) / (ROUNDS + 8)
    benchmark.extra_info.update(limit_s=limit_s, sequences=sequences, context=context)
    serving.abandon()


@pytest.mark.parametrize(("kind", "model", "dtype", "sequences", "context"), ENGINES)
def test_prefill(benchmark, kind, model, dtype, sequences, context):
    tokens = 8192 if kind == "cuda" else 256
    engine, ceilings = loaded(kind, model, dtype, 1, tokens + 1), measure_ceilings(kind, dtype)
    request = Request(0, np.arange(tokens, dtype=np.int32), 1)

    def serve():
        return list(engine.serve(closed([request], 1), time.perf_counter))

    serve()
    begin_s = time.perf_counter()
    benchmark.pedantic(serve, rounds=4)
    report = engine.report(begin_s, time.perf_counter())  # of the last round alone
    assert report.flop is not None
    benchmark.extra_info.update(limit_s=report.flop / ceilings.flop_per_s, tokens=tokens)


def loaded(kind: str, model: str, dtype: str, sequences: int, longest: int) -> NativeEngine:
    spec = BenchSpec.model_validate(
        {
            "engine": "native", "model": model, "dtype": dtype, "device": kind, "workloads": ("chat",),
            "concurrency": (sequences,),
        }
    )  # fmt: skip
    engine = NativeEngine(spec)
    engine.load(max_concurrency=sequences, longest_context=longest)
    return engine
