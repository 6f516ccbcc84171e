"""Probes of engine `native`: they are a step's own kernels, of the work that accounts give it, and disturb nothing."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.bench.scripted_board import ScriptedBoard, pretend_loops
from tests.engines.families import make
from tests.engines.test_native_parity import prompts
from tests.factories import closed, measurement

from tokenwatt import metered_loop
from tokenwatt.closure import measure
from tokenwatt.engines.native.accounting import FAMILIES, StepShape, total
from tokenwatt.engines.native.engine import NativeEngine
from tokenwatt.engines.native.probes import MeanStep, Stand, probes_of, typical_steps
from tokenwatt.engines.native.recording import Recording, recorded
from tokenwatt.engines.native.runner import Runner
from tokenwatt.engines.protocol import Engine, Family, Probe, Probes
from tokenwatt.errors import EngineError
from tokenwatt.record import EnergyStatus
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import Request
from tokenwatt_kernels import operators

ALWAYS = 1e9
REQUESTS = prompts((5, 40, 17, 33, 8, 2), osl=24)
MODELS = ["llama", "gemma3", "gpt-oss", "qwen3-moe", "deepseek-v3"]


def engine_of(folder: Path, **changes: Any) -> NativeEngine:
    settings = {"weights": str(folder), "dtype": "float32", **changes}
    engine = NativeEngine(
        BenchSpec.model_validate(
            {
                "engine": "native", "model": str(folder), "device": "cpu", "workloads": ("chat",), "concurrency": (4,),
                **settings,
            }
        )
    )  # fmt: skip
    engine.load(max_concurrency=4, longest_context=96)
    return engine


def tokens_of(engine: NativeEngine, requests: list[Request] = REQUESTS) -> dict[int, list[int]]:
    tokens = defaultdict(list)
    for event in engine.serve(closed(requests, 4), clock=time.perf_counter):
        tokens[event.request_index] += event.token_ids
    return dict(tokens)


@dataclass
class Served:
    """An engine after a run, with the run's tokens and its probes."""

    engine: NativeEngine
    tokens: dict[int, list[int]]
    found: Probes


@pytest.fixture(scope="module", params=MODELS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("model")
    make(request.param, folder)
    engine = engine_of(folder)
    tokens = tokens_of(engine)
    yield Served(engine, tokens, engine.probes(0.0, ALWAYS))
    engine.close()


def prepared(probe: Probe) -> Recording:
    recording = probe.prepare()
    assert isinstance(recording, Recording)
    return recording


def test_every_family_with_work_has_a_probe_of_each_kind_of_step(served):
    working = [family for family in FAMILIES if served.found.flop[family] or served.found.bytes[family]]
    assert Counter(probe.family for probe in served.found.probes) == dict.fromkeys(working, 2)


def test_works_are_those_of_accounts_for_the_step(served):
    loaded, log = served.engine._ready, served.engine._serving.log
    assert loaded.accounting is not None
    for mean in typical_steps(log.shapes):
        step, _ = Stand(loaded).step(mean)
        same = [probe for probe in served.found.probes if probe.steps == mean.steps]
        expected = total(loaded.accounting.of(step))
        assert sum(probe.flop for probe in same) == expected.flop
        assert sum(probe.bytes for probe in same) == expected.bytes


def test_products_multiply_as_much_as_accounts_say(served):
    """By the shapes of the recorded calls: x [M, K] times weight [N, K], or [E, N, K] for M sorted rows."""
    for probe in served.found.probes:
        if probe.family not in ("matmul", "moe"):
            continue
        flop = 0
        for call in prepared(probe).calls:
            if call.name == "moe_route":
                continue
            a, weight = call.args[:2]
            if call.name == "aten::bmm":  # [B, M, K] times [B, K, N]
                flop += 2 * a.shape[0] * a.shape[1] * a.shape[2] * weight.shape[2]
                continue
            # An expert's first product gathers its rows by `order`, its second has them.
            rows = len(call.args[3]) if call.name == "grouped_matmul" else len(a)
            n, k = (weight.n, weight.k) if not isinstance(weight, torch.Tensor) else weight.shape[-2:]
            flop += 2 * rows * n * k
        assert flop == probe.flop, probe


def test_typical_steps_stand_for_the_work_of_the_window(served):
    """Mean steps times their number. Attention goes with the product of tokens and contexts, whose mean is another one
    where prompts are as unlike as these; the others lose what whole sequences round off."""
    for family in FAMILIES:
        for quantity in ("flop", "bytes"):
            probes = [probe for probe in served.found.probes if probe.family == family]
            expected = pytest.approx(getattr(served.found, quantity)[family], rel=0.2 if family == "attention" else 0.1)
            assert sum(probe.steps * getattr(probe, quantity) for probe in probes) == expected


def test_probes_compute_finite_numbers_of_numbers_by_chance(served):
    for probe in served.found.probes:
        recording = prepared(probe)
        for _ in range(2):
            recording()
        with torch.inference_mode():
            answers = [each for call in recording.calls for each in flat(call())]
        assert all(answer.isfinite().all() for answer in answers)
        if probe.family == "matmul":
            assert all(call.args[0].float().std() > 0 for call in recording.calls)


def flat(answer: Any) -> Iterator[torch.Tensor]:
    for each in answer if isinstance(answer, list | tuple) else [answer]:
        if isinstance(each, torch.Tensor) and each.is_floating_point():
            yield each


def test_all_families_together_are_the_whole_step(served):
    """The recordings have each operator of the kernels as often as the step calls it."""
    loaded = served.engine._ready
    mean = typical_steps(served.engine._serving.log.shapes)[-1]
    mixed = [probe for probe in served.found.probes if probe.steps == mean.steps]
    recorded = Counter(call.name for probe in mixed for call in prepared(probe).calls)
    called: Counter[str] = Counter()

    def count(function: Any, args: Any, kwargs: Any) -> Any:
        called[function.__name__] += 1
        return function(*args, **kwargs)

    step, table = Stand(loaded).step(mean)
    runner = Runner(loaded.runner._decoder, loaded.runner._cache, table, loaded.max_step_tokens)
    with operators.watched(count):
        runner.launch(step)
    ours = {name: times for name, times in recorded.items() if not name.startswith("aten::")}
    assert ours == called
    assert (recorded["aten::embedding"], recorded["top_k"]) == (1, 1)


def test_a_recording_shares_activations_and_no_weights(served):
    (probe,) = (each for each in served.found.probes if (each.family, each.steps) == ("matmul", min_steps(served)))
    calls = [call for call in prepared(probe).calls if call.name == "matmul"]
    by_shape = defaultdict(set)
    for call in calls:
        by_shape[call.args[0].shape, call.args[0].stride()].add(call.args[0].data_ptr())
    assert all(len(inputs) == 1 for inputs in by_shape.values())
    plain = [call.args[1].data_ptr() for call in calls if isinstance(call.args[1], torch.Tensor)]
    assert len(set(plain)) == len(plain)


def min_steps(served: Served) -> float:
    return min(probe.steps for probe in served.found.probes)


def test_the_engine_serves_the_same_tokens_afterwards(served):
    for probe in served.found.probes:
        prepared(probe)()
    assert tokens_of(served.engine) == served.tokens


@pytest.mark.parametrize(
    "options",
    [
        {"page_size": 16, "prefix_caching": True},
        {"page_size": 16, "num_pages": 7},  # fewer than the sequences of a mean step fill
        {"quantization": "fp8", "kv_cache_dtype": "float8_e4m3fn"},
    ],
)
def test_other_options_change_no_token_either(options, tmp_path):
    make("qwen3", tmp_path)
    engine = engine_of(tmp_path, dtype="bfloat16", options=options)
    expected = tokens_of(engine)
    for probe in engine.probes(0.0, ALWAYS).probes:
        prepared(probe)()
    assert tokens_of(engine) == expected


class Drawing:
    """The engine, whose probes draw a scripted board's energy."""

    def __init__(self, engine: NativeEngine, board: ScriptedBoard) -> None:
        self.engine, self.board = engine, board

    def probes(self, start_s: float, end_s: float) -> Probes:
        found = self.engine.probes(start_s, end_s)
        return replace(found, probes=tuple(self.board.drawing(each, time.perf_counter) for each in found.probes))


@pytest.mark.parametrize("served", ["qwen3-moe"], indirect=True)
def test_closure_finds_the_law_of_a_scripted_board(served, monkeypatch):
    pretend_loops(monkeypatch.setattr, window_s=0.1)
    monkeypatch.setattr(metered_loop, "MARGIN_S", 0.01)
    law: dict[Family, tuple[float, float]] = {
        "attention": (2e-6, 5e-6), "matmul": (1e-6, 3e-6), "moe": (1e-6, 4e-6), "fused": (0.0, 6e-6),
    }  # fmt: skip
    board, found = ScriptedBoard(20.0, law), served.found
    explained = sum(board.work_j(family, found.flop[family], found.bytes[family]) for family in FAMILIES)
    start_s, end_s = served.engine._serving.log.at_s[0] - 1.0, served.engine._serving.log.at_s[-1]
    row = measurement(
        window_start_s=start_s, window_s=end_s - start_s, energy_status=EnergyStatus.VALID,
        gpu_static_power_w=20.0, gpu_energy_j=20.0 * (end_s - start_s) + explained,
    )  # fmt: skip
    engine = cast("Engine", Drawing(served.engine, board))
    closure = measure(engine, board.meters, time.perf_counter, row, integrate=board.integrate)
    assert all(remark.startswith("suspect (host_bound), and counted: ") for remark in closure.remarks)
    terms = {term.term: term for term in closure.terms}
    assert abs(terms["rest"].energy_j) <= 0.02 * explained
    assert terms["matmul"].joules_per_flop == pytest.approx(1e-6, rel=1e-3)
    assert terms["matmul"].joules_per_byte == pytest.approx(3e-6, rel=1e-3)


def test_probes_wait_for_the_end_of_a_run(served):
    run = served.engine.serve(closed(REQUESTS, 4), clock=time.perf_counter)
    next(run)
    with pytest.raises(EngineError, match="a run is under way"):
        served.engine.probes(0.0, ALWAYS)
    run.close()


def test_an_engine_that_has_served_nothing_has_no_probes(tmp_path):
    make("llama", tmp_path)
    assert engine_of(tmp_path).probes(0.0, ALWAYS).refusal == "the engine has served nothing yet"


def test_a_window_without_steps_has_no_probes(served):
    assert served.engine.probes(-2.0, -1.0).refusal == "no step of the engine ended in the window"


@pytest.mark.parametrize("served", ["llama", "deepseek-v3"], indirect=True)
def test_a_window_of_one_kind_of_step_has_one_beside_it_of_half_its_tokens(served):
    tokens_of(served.engine)
    log = served.engine._serving.log
    last_chunk_s = max(at_s for at_s, shape in zip(log.at_s, log.shapes, strict=True) if shape.chunks)
    decoding = served.engine.probes(last_chunk_s, ALWAYS).probes
    tokens_of(served.engine, prompts((40, 33, 38, 36), osl=1))
    prefilling = served.engine.probes(0.0, ALWAYS).probes
    for probes in (decoding, prefilling):
        whole, half = (next(each for each in probes if bool(each.steps) is there) for there in (True, False))
        assert (whole.family, half.family) == ("attention", "attention")
        assert half.flop < 0.75 * whole.flop
        for probe in probes:
            prepared(probe)()
    assert all("chunk" not in probe.shape for probe in decoding)
    assert all("decode" not in probe.shape for probe in prefilling)


@pytest.mark.parametrize("served", ["llama"], indirect=True)
def test_gpus_that_share_a_model_have_no_probes(served):
    loaded = served.engine._ready
    assert loaded.accounting is not None
    shared = replace(loaded, accounting=replace(loaded.accounting, size=2))
    found = probes_of(shared, served.engine._serving.log, 0.0, ALWAYS)
    assert (found.probes, found.refusal) == ((), "a GPU that shares its model cannot run a part of a step alone")


@torch.inference_mode()
def test_a_recording_holds_what_launches_a_kernel():
    x, kept = torch.arange(6.0).view(2, 3), torch.zeros(2, 3)
    with recorded("fused") as recording:
        x.t().reshape(2, 3)  # a copy, since the columns lie apart
        x.reshape(3, 2)  # none
        x.to(torch.float32)  # none
        wide = x.to(torch.float64)
        kept.copy_(wide)
        torch.empty(3)
        torch.mm(x, x.t())  # of another family
    assert [call.name.removesuffix("_copy") for call in recording.calls] == ["aten::reshape", "aten::to", "aten::copy_"]
    kept.zero_()
    recording()
    assert torch.equal(kept, x)


def test_mean_steps_by_hand():
    shapes = [
        StepShape(4, 400, 0, 0, 0, 4),
        StepShape(2, 260, 0, 0, 0, 2),
        StepShape(3, 330, 2, 64, 80, 4),
    ]
    decode, mixed = typical_steps(shapes)
    # (4 + 2) / 2 sequences at (400 + 260) / 6 tokens.
    assert decode == MeanStep(2, 3.0, 110.0, 0.0, 0.0, 0.0, 0.0)
    assert mixed == MeanStep(1, 3.0, 110.0, 2.0, 64.0, 40.0, 1.0)


def test_steps_of_one_kind_are_joined_by_one_of_half_their_tokens():
    whole, half = typical_steps(3 * [StepShape(8, 800, 0, 0, 0, 8)])
    assert (whole.steps, half.steps) == (3, 0)
    assert (half.decodes, half.decode_context) == (4.0, 100.0)
    (alone,) = typical_steps([StepShape(1, 100, 0, 0, 0, 1)])  # which has no half
    assert alone.decodes == 1
    assert typical_steps([]) == []


def test_a_step_stays_within_what_was_loaded(served):
    stand, loaded = Stand(served.engine._ready), served.engine._ready
    step, table = stand.step(MeanStep(1, 3.6, 95.9, 1.4, 700.0, 500.0, 0.7))
    # Four rows: one chunk, and three that decode; all contexts end at 96, and a chunk has no more tokens than that.
    assert (step.decodes, len(step.chunks), len(step.sequences)) == (3, 1, 4)
    assert (step.starts + step.counts).max() <= loaded.longest_context
    assert step.tokens <= loaded.max_step_tokens
    assert table.pages.max() < loaded.num_pages
