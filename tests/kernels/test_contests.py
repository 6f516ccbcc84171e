"""Contests and their timing, with reference kernels on a CPU and a clock that the test sets."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from tokenwatt_kernels import __main__, commands, contests, timing
from tokenwatt_kernels.attention.decode.contest import contest as decode_contest
from tokenwatt_kernels.attention.decode.problems import latents, tokens
from tokenwatt_kernels.attention.prefill.contest import contest as prefill_contest
from tokenwatt_kernels.attention.prefill.problems import chunks, prompts
from tokenwatt_kernels.attention.problem import AttentionProblem
from tokenwatt_kernels.contests import Contender, Contest
from tokenwatt_kernels.matmul.dense.contest import contest as matmul_contest
from tokenwatt_kernels.matmul.nvfp4.contest import contest as nvfp4_contest
from tokenwatt_kernels.matmul.nvfp4.problems import Nvfp4Problem
from tokenwatt_kernels.matmul.packed.contest import contest as packed_contest
from tokenwatt_kernels.matmul.packed.problems import PackedProblem
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.work import Work

CPU = torch.device("cpu")
ANSWER = torch.tensor([1.0, 2.0])


def no_kernel():
    raise RuntimeError("No available kernel.\nmore")


def make_contest(**contenders):
    runs = {"tokenwatt": lambda: ANSWER, **contenders}
    return Contest(
        family="family",
        problem="problem",
        dtype_name="float32",
        terms=1,
        work=Work(flop=600, bytes=30),
        contenders={name: Contender(run) for name, run in runs.items()},
    )


def test_rates_divide_the_work_by_the_median():
    # Each call "takes" 2 s: 600 / 2 = 300 flop/s, 30 / 2 = 15 bytes/s.
    ours, peer = contests.run(make_contest(peer=lambda: ANSWER), sampler=lambda function: [1.0, 2.0, 3.0])
    assert (ours.status, ours.flop_per_s, ours.bytes_per_s, ours.time_over_ours) == ("measured", 300.0, 15.0, 1.0)
    assert peer.contender == "peer"


def test_contender_that_disagrees_gets_no_number():
    found = contests.run(make_contest(peer=lambda: ANSWER, wrong=lambda: ANSWER + 1), sampler=lambda f: [1.0, 1.0])
    assert [(row.contender, row.status) for row in found][2] == ("wrong", "disagrees")
    assert found[2].median_s is None


def test_our_kernel_gets_no_number_when_it_disagrees():
    contest = make_contest(peer=lambda: ANSWER + 1)
    ours, peer = contests.run(contest, sampler=lambda function: [1.0, 1.0])
    assert (ours.status, ours.median_s) == ("disagrees", None)
    assert (peer.status, peer.time_over_ours) == ("measured", None)


def test_backend_that_cannot_run_says_why():
    found = contests.run(make_contest(peer=lambda: ANSWER, absent=no_kernel), sampler=lambda function: [1.0, 1.0])
    assert (found[2].status, found[2].reasons) == ("unavailable", ("No available kernel.",))


def test_contest_without_a_baseline_gives_no_number():
    found = contests.run(make_contest(absent=no_kernel), sampler=lambda function: [1.0, 1.0])
    assert [(row.contender, row.status) for row in found] == [("tokenwatt", "unavailable"), ("absent", "unavailable")]
    assert found[0].reasons == ("no baseline runs here, so nothing says that our answer is right",)


FP8 = "float8_e4m3fn"
ON_CPU = ("sdpa_math", "flex")
# On a GPU it is compiled.
unfused_flex = pytest.mark.filterwarnings(
    "ignore:flex_attention called without torch.compile:UserWarning:torch.nn.attention.flex_attention"
)


@unfused_flex
@pytest.mark.parametrize(
    ("problem", "dtype_name", "baselines"),
    [
        (prompts("causal", (9, 9), 4, 2, 16), "float32", ON_CPU),
        (prompts("not causal", (9, 9), 4, 2, 16, causal=False), "float32", ON_CPU),
        (prompts("values 32", (9,), 4, 4, 48, value_dim=32), "bfloat16", ON_CPU),
        (prompts("window sinks", (40, 40), 4, 2, 16, window=7, has_sinks=True), "float32", ("flex",)),
        (prompts("softcap", (9, 9), 4, 2, 16, softcap=2.0), "float32", ("flex",)),
        (chunks("chunk", (9, 9), (20, 20), 4, 2, 16), "float32", ON_CPU),
        (chunks("chunk window", (9,), (40,), 4, 2, 16, window=7), "float32", ("flex",)),
        (chunks("pages", (9, 9), (20, 20), 4, 2, 16, page_size=4), "float16", ON_CPU),
        (prompts("float8", (9, 9), 4, 2, 16), FP8, ("sdpa_math_bf16", "flex_bf16")),
        (prompts("float8 head scales", (9, 9), 4, 2, 16, scales="head"), FP8, ("sdpa_math_bf16", "flex_bf16")),
    ],
    ids=lambda value: value.name if isinstance(value, AttentionProblem) else "",
)
def test_prefill_contests_agree(problem, dtype_name, baselines):
    contest = prefill_contest(problem, dtype_name, CPU, names=ON_CPU)
    assert measured(contest) == ("tokenwatt", *baselines)


@unfused_flex
@pytest.mark.parametrize(
    ("problem", "dtype_name", "baselines"),
    [
        (tokens("plain", (9, 9), 4, 2, 16, page_size=4), "float32", ON_CPU),
        (tokens("window sinks", (40, 40), 4, 2, 16, window=7, has_sinks=True), "float32", ("flex",)),
        (tokens("softcap", (9, 9), 4, 2, 16, softcap=2.0), "float32", ("flex",)),
        (tokens("verify", (9, 9), 4, 2, 16, queries=3), "float32", ON_CPU),
        (tokens("float8 cache", (9, 9), 4, 2, 16, kv_dtype=FP8), "bfloat16", ("sdpa_math_bf16", "flex_bf16")),
        (
            tokens("head scales", (9,), 4, 2, 16, kv_dtype=FP8, scales="head"),
            "float16",
            ("sdpa_math_bf16", "flex_bf16"),
        ),
        (latents("latent", (9, 9), 4, 48, 32, page_size=4), "float32", ON_CPU),
    ],
    ids=lambda value: value.name if isinstance(value, AttentionProblem) else "",
)
def test_decode_contests_agree(problem, dtype_name, baselines):
    contest = decode_contest(problem, dtype_name, CPU, names=ON_CPU)
    assert measured(contest) == ("tokenwatt", *baselines)


def test_matmul_contest_agrees():
    assert len(measured(matmul_contest(MatmulProblem("m", 3, 5, 7), "float32", CPU))) == 2


def test_contests_of_four_bits_agree():
    int4 = PackedProblem("p", 3, 64, 256, activation="swiglu", has_bias=True)
    assert measured(packed_contest(int4, "bfloat16", CPU)) == ("tokenwatt", "cublas", "int4pack")
    mxfp4 = PackedProblem("p", 3, 64, 256, "mxfp4", has_residual=True)
    assert measured(packed_contest(mxfp4, "bfloat16", CPU)) == ("tokenwatt", "cublas")
    assert measured(nvfp4_contest(Nvfp4Problem("p", 3, 64, 256), "bfloat16", CPU)) == ("tokenwatt", "cublas")


def measured(contest):
    """Who took part, all of them in agreement."""
    found = contests.run(contest, sampler=lambda function: [1.0, 1.0])
    assert [row.reasons for row in found if row.status != "measured"] == []
    return tuple(row.contender for row in found)


@pytest.mark.parametrize("contest", [prefill_contest, decode_contest])
def test_contest_of_unequal_lengths_is_refused(contest):
    with pytest.raises(ValueError, match=r"as many queries and keys, got \(1, 1\) and \(1, 2\)"):
        contest(tokens("p", (1, 2), 1, 1, 16), "float32", CPU)
    with pytest.raises(ValueError, match=r"as many queries and keys, got \(1, 2\) and \(3, 3\)"):
        contest(chunks("p", (1, 2), (3, 3), 1, 1, 16, page_size=4), "float32", CPU)


def test_functions_are_timed_forwards_then_backwards():
    order = []
    functions = {"a": lambda: "a", "b": lambda: "b"}
    timings = timing.interleave(functions, rounds=2, sampler=lambda function: order.append(function()) or [1.0])
    assert order == ["a", "b", "b", "a"]
    assert timings["a"].samples == 2


def test_summary_by_hand():
    # Sorted 1 2 3 4 5 6: the median is 3.5; positions 0.2 * 5 = 1 and 0.8 * 5 = 4 hold 2 and 5.
    assert timing.summarise([5.0, 1.0, 2.0, 4.0, 3.0, 6.0]) == timing.Timing(3.5, 2.0, 5.0, 6)


def test_one_sample_has_no_spread():
    with pytest.raises(ValueError, match="at least 2 values, got 1"):
        timing.summarise([1.0])


class FakeGpu:
    """A host and a GPU in simulated seconds. The GPU does queued work in order, each piece when it has been queued."""

    def __init__(self):
        self.host_s = self.gpu_s = 0.0
        self.idle_cycles_per_s = 2e9

    def queue(self, host_s, gpu_s):
        self.host_s += host_s
        self.gpu_s = max(self.gpu_s, self.host_s) + gpu_s

    def synchronize(self):
        self.host_s = max(self.host_s, self.gpu_s)

    def sleep(self, cycles):
        self.queue(4e-6, cycles / self.idle_cycles_per_s)

    def install(self, monkeypatch):
        gpu = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                gpu.queue(4e-6, 0.0)
                self.at_s = gpu.gpu_s

            def elapsed_time(self, end):
                return (end.at_s - self.at_s) * 1e3

        monkeypatch.setattr(timing, "perf_counter", lambda: gpu.host_s)
        monkeypatch.setattr(timing.torch, "zeros", lambda *shape, **options: None)
        monkeypatch.setattr(timing.torch, "empty", lambda *shape, **options: None)
        monkeypatch.setattr(timing.torch, "sum", lambda *flush, **options: gpu.queue(4e-6, 60e-6))
        monkeypatch.setattr(timing.torch.cuda, "Event", Event)
        monkeypatch.setattr(timing.torch.cuda, "_sleep", gpu.sleep)
        monkeypatch.setattr(timing.torch.cuda, "synchronize", gpu.synchronize)
        return gpu


@pytest.mark.parametrize("kernel_s", [2e-6, 3e-3])
@pytest.mark.parametrize("host_s", [5e-6, 500e-6])
def test_device_times_leave_out_the_host(monkeypatch, host_s, kernel_s):
    gpu = FakeGpu().install(monkeypatch)

    def two_launches():
        gpu.queue(host_s / 2, kernel_s / 2)
        gpu.queue(host_s / 2, kernel_s / 2)

    samples = timing.cold_l2_samples(two_launches)
    assert len(samples) >= 5
    assert samples == pytest.approx([kernel_s] * len(samples))


def test_without_a_head_start_the_events_would_time_the_host(monkeypatch):
    gpu = FakeGpu().install(monkeypatch)
    monkeypatch.setattr(timing, "HEAD_START", 0.0)
    samples = timing.cold_l2_samples(lambda: gpu.queue(500e-6, 2e-6))
    assert min(samples) > 400e-6


def one_by_one(function, calls):
    return lambda: [function() for _ in range(calls)]


@pytest.mark.parametrize("call_s", [1e-6, 2e-3, 0.2])
def test_a_loop_is_fed_bounded_and_counted(monkeypatch, call_s):
    gpu = FakeGpu().install(monkeypatch)
    monkeypatch.setattr(timing, "in_one_launch", one_by_one)
    ahead_s = []

    def call():
        gpu.queue(2e-7, call_s)
        ahead_s.append(gpu.gpu_s - gpu.host_s)

    loop = timing.loop(call, call_s, lambda: gpu.host_s, window_s=0.3, margin_s=0.1)
    # The margins and the window end with the first block of 50 ms, or of one call, that fills them.
    block_s = 1.01 * max(timing.BLOCK_S, call_s)
    assert 0.1 <= loop.start_s <= 0.1 + block_s
    assert 0.3 <= loop.end_s - loop.start_s <= 0.3 + block_s
    assert gpu.host_s >= loop.end_s + 0.1
    assert max(ahead_s) <= block_s
    # The device was busy all the time but for the first launch of each block.
    assert loop.calls * call_s == pytest.approx(loop.end_s - loop.start_s, rel=1e-3)
    assert loop.queueing_s == pytest.approx(loop.calls * 2e-7)


def test_a_loop_says_how_long_its_host_was_busy(monkeypatch):
    gpu = FakeGpu().install(monkeypatch)
    monkeypatch.setattr(timing, "in_one_launch", one_by_one)
    # 100 us of the host for 10 us of the device: but for the last call of each block, the host is the whole time.
    loop = timing.loop(lambda: gpu.queue(100e-6, 10e-6), 10e-6, lambda: gpu.host_s, window_s=0.3)
    assert loop.queueing_s > 0.99 * (loop.end_s - loop.start_s)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU captures them")
def test_calls_that_cannot_be_captured_are_queued_one_by_one():
    calls = []
    timing.in_one_launch(lambda: calls.append(1), 3)()
    assert calls == [1, 1, 1]


def test_the_row_of_our_kernel_says_its_configuration():
    contest = replace(make_contest(peer=lambda: ANSWER, absent=no_kernel), configuration="tile 64")
    found = contests.run(contest, sampler=lambda function: [1.0, 1.0])
    assert [(row.configuration, row.samples) for row in found] == [("tile 64", 8), ("", 8), ("", None)]


def test_bench_without_a_harness_prints_times(monkeypatch, capsys):
    monkeypatch.setattr(__main__, "_device", lambda _: CPU)
    monkeypatch.setattr(commands, "check", lambda *_: iter(()))
    monkeypatch.setattr(commands, "bench", lambda *_: iter([make_contest(peer=lambda: ANSWER)]))
    monkeypatch.setattr(contests, "run", partial(contests.run, sampler=lambda function: [2e-6, 2e-6]))
    assert __main__.main(["bench", "matmul.dense"]) == 0
    ours, peer = capsys.readouterr().out.splitlines()
    assert ours.split()[:6] == ["measured", "problem", "float32", "tokenwatt", "2.0", "us"]
    assert "1.00 x our time" in peer


def test_held_to_picks_the_limit():
    # A share of 1 % of the judge: too far for float32, near enough for float8.
    judge = torch.linspace(1.0, 2.0, 64)
    for held_to, status in (("", "disagrees"), ("float8_e4m3fn", "measured")):
        contest = Contest(
            family="f", problem="p", dtype_name="float32", terms=1, work=Work(1, 1), held_to=held_to,
            contenders={contests.OURS: Contender(lambda: judge * 1.01), "peer": Contender(lambda: judge)},
        )  # fmt: skip
        found = {
            result.contender: result.status for result in contests.run(contest, sampler=lambda function: [1.0, 1.0])
        }
        assert found[contests.OURS] == status
