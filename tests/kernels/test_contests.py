"""Contests and their timing, with reference kernels on a CPU and a clock that the test sets."""

from __future__ import annotations

import pytest
import torch

from tokenwatt_kernels import contests, timing
from tokenwatt_kernels.attention.decode.contest import contest as decode_contest
from tokenwatt_kernels.attention.decode.problems import DecodeProblem
from tokenwatt_kernels.attention.prefill.contest import contest as prefill_contest
from tokenwatt_kernels.attention.prefill.problems import PrefillProblem
from tokenwatt_kernels.contests import Contender, Contest
from tokenwatt_kernels.matmul.dense.contest import contest as matmul_contest
from tokenwatt_kernels.matmul.dense.problems import MatmulProblem
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


def test_contest_without_a_baseline_is_refused():
    with pytest.raises(RuntimeError, match="needs our kernel and a baseline"):
        contests.run(make_contest(absent=no_kernel))


@pytest.mark.parametrize(
    "contest",
    [
        prefill_contest(PrefillProblem("p", (9, 9), 4, 2, 16), "float32", CPU, baselines=("sdpa_math",)),
        decode_contest(DecodeProblem("d", (9, 9), 4, 2, 16, page_size=4), "float32", CPU, baselines=("sdpa_math",)),
        matmul_contest(MatmulProblem("m", 3, 5, 7), "float32", CPU),
    ],
    ids=lambda contest: contest.family,
)
def test_real_contests_agree(contest):
    found = contests.run(contest, sampler=lambda function: [1.0, 1.0])
    assert [row.status for row in found] == ["measured", "measured"]


def test_contest_of_unequal_lengths_is_refused():
    with pytest.raises(ValueError, match=r"lengths must all be equal for a contest, got \(1, 2\)"):
        prefill_contest(PrefillProblem("p", (1, 2), 1, 1, 16), "float32", CPU)


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

        class Flush:
            def zero_(self):
                gpu.queue(4e-6, 60e-6)

        monkeypatch.setattr(timing, "perf_counter", lambda: gpu.host_s)
        monkeypatch.setattr(timing.torch, "empty", lambda *shape, **options: Flush())
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
