"""pytest-benchmark cases of the engine: host wall time of a synchronised call.

Run with --benchmark-enable; without it each case runs once, as a test.
"""

from __future__ import annotations

import pytest
import torch

from tokenwatt.engines.native.sampling import sample
from tokenwatt.engines.native.sampling_batch import SamplingBatch
from tokenwatt.workloads import Sampling

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
