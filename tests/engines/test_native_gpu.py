"""Engine `native` on a GPU: what only a GPU has (graphs, launches that nothing waits for), and 16 bits beside 32."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import numpy as np
import pytest
import torch
from tests.engines.families import CONFIGS, VOCABULARY, make
from tests.engines.test_native_parity import prompts
from tests.factories import closed
from transformers import PreTrainedModel

from tokenwatt.engines.native.engine import NativeEngine
from tokenwatt.engines.native.recording import Recording
from tokenwatt.engines.native.serving import Serving
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import Request, Sampling
from tokenwatt_kernels import timing

pytestmark = pytest.mark.gpu

# A bfloat16 has 8 digits of which an engine that rounds at other places loses some in each of three layers: the largest
# difference of a logit, as a share of the largest logit.
BFLOAT16_SHARE = 0.04


def engine_of(folder, longest: int = 96, concurrency: int = 4, **changes) -> NativeEngine:
    settings = {"weights": str(folder), "dtype": "bfloat16", **changes}
    spec = BenchSpec.model_validate(
        {
            "engine": "native", "model": str(folder), "device": "cuda", "workloads": ("chat",),
            "concurrency": (concurrency,), **settings,
        }
    )  # fmt: skip
    engine = NativeEngine(spec)
    engine.load(max_concurrency=concurrency, longest_context=longest)
    return engine


def tokens_of(engine: NativeEngine, requests: list[Request], concurrency: int = 4) -> dict[int, list[int]]:
    tokens: dict[int, list[int]] = {request.index: [] for request in requests}
    for event in engine.serve(closed(requests, concurrency), clock=lambda: 0.0):
        tokens[event.request_index] += event.token_ids
    return tokens


@pytest.mark.parametrize("family", CONFIGS)
def test_logits_of_a_first_token_in_bfloat16(family, tmp_path, monkeypatch):
    """Of most prompts: where two experts are as good as each other, a rounding chooses, in transformers too."""
    model: PreTrainedModel = make(family, tmp_path)
    engine, seen = engine_of(tmp_path), []
    runner = type(engine._ready.runner)
    inner = runner._sample

    def watched(self, step, batch, logits):
        seen.append(logits.float().cpu())
        return inner(self, step, batch, logits)

    monkeypatch.setattr(runner, "_sample", watched)
    shares = []
    for length in (40, 33, 21, 37, 18, 29, 27):
        (request,) = prompts((length,), osl=1)
        tokens_of(engine, [request])
        with torch.inference_mode():
            expected = model(torch.from_numpy(request.prompt.astype(np.int64))[None]).logits[0, -1]
        shares.append(float((seen[-1][0] - expected).abs().max() / expected.abs().max()))
    assert median(shares) <= BFLOAT16_SHARE, shares


@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt-oss", "deepseek-v3"])
def test_graphs_change_no_token(family, tmp_path):
    make(family, tmp_path)
    requests = prompts((5, 40, 17, 33, 8, 2), osl=24)
    with_graphs, without = (engine_of(tmp_path, options={"cuda_graphs": graphs}) for graphs in (True, False))
    # A step of three runs in the graph of four, beside a row of nobody.
    for concurrency in (1, 3, 4):
        assert tokens_of(with_graphs, requests, concurrency) == tokens_of(without, requests, concurrency)


@pytest.mark.parametrize("family", ["llama", "deepseek-v3"])
def test_nothing_waits_while_a_step_is_launched(family, tmp_path):
    make(family, tmp_path)
    engine = engine_of(tmp_path, options={"page_size": 16})
    tokens_of(engine, prompts((5, 40, 17), osl=4))  # kernels are compiled
    serving = Serving(engine._ready)
    for request in prompts((5, 40, 17), osl=12):
        serving.add(replace(request, sampling=Sampling(temperature=0.9, repetition_penalty=1.2)))
    for _ in range(8):
        step = serving.scheduler.schedule()
        assert step is not None
        torch.cuda.set_sync_debug_mode("error")
        try:
            launched = engine._ready.runner.launch(step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        launched.tokens()  # a stage must not be filled before its last copy is done
    serving.abandon()


@pytest.mark.parametrize(
    "options", [{"quantization": "fp8"}, {"quantization": "int4"}, {"kv_cache_dtype": "float8_e4m3fn"}]
)
def test_other_formats_serve(options, tmp_path):
    engine = engine_of(
        tmp_path, longest=600, model="Qwen3-0.6B", weights="random", options={**options, "page_size": 64}
    )
    rng = np.random.default_rng(0)
    requests = [Request(place, rng.integers(0, VOCABULARY, 300, dtype=np.int32), 20) for place in range(6)]
    assert all(len(tokens) == 20 for tokens in tokens_of(engine, requests).values())


def test_sampled_tokens_do_not_depend_on_the_batch(tmp_path):
    make("llama", tmp_path)
    engine = engine_of(tmp_path, dtype="float32")
    sampling = Sampling(temperature=0.9, top_k=40, top_p=0.9, repetition_penalty=1.2)
    requests = [
        Request(place, request.prompt, 16, sampling, seed=place)
        for place, request in enumerate(prompts((9, 30, 21), 16))
    ]
    together = tokens_of(engine, requests)
    for request in requests:
        assert tokens_of(engine, [request], 1)[request.index] == together[request.index]


@pytest.mark.parametrize("family", ["llama", "gemma3", "mixtral", "gpt-oss", "deepseek-v3"])
def test_probes_are_captured_and_change_no_token(family, tmp_path):
    make(family, tmp_path)
    engine = engine_of(tmp_path)
    requests = prompts((5, 40, 17, 33, 8, 2), osl=24)
    expected = tokens_of(engine, requests)
    found = engine.probes(-1.0, 1.0)
    assert {probe.family for probe in found.probes} >= {"attention", "matmul", "fused"}
    for probe in found.probes:
        recording = probe.prepare()
        assert isinstance(recording, Recording)
        launch = timing.in_one_launch(recording, 2)
        # Where a capture fails, calls are queued one by one, and a loop would meter the host.
        assert isinstance(getattr(launch, "__self__", None), torch.cuda.CUDAGraph), probe
        launch()
        torch.cuda.synchronize()
    assert tokens_of(engine, requests) == expected


def test_a_probe_that_decodes_has_the_rows_of_its_graph(tmp_path):
    make("llama", tmp_path)
    engine = engine_of(tmp_path, concurrency=12)
    tokens_of(engine, prompts(tuple(range(5, 14)), osl=24), concurrency=9)
    decodes = [probe for probe in engine.probes(-1.0, 1.0).probes if "chunk" not in probe.shape]
    (product,) = (probe for probe in decodes if probe.family == "matmul")
    recording = product.prepare()
    assert isinstance(recording, Recording)
    # Graphs of up to 12 have 1, 2, 4, 8 and 12 rows.
    assert {len(call.args[0]) for call in recording.calls} <= {8, 12}
