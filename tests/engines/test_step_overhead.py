"""pytest-benchmark cases of the host's work for a step: `Scheduler.schedule` and `prepare`, 256 sequences on a CPU.

Run with --benchmark-enable; without it each case runs once, as a test. What a GPU has to do in a step of 256 sequences
takes some milliseconds; the host must be done before it, or the GPU waits.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter

import numpy as np
import pytest
import torch

from tokenwatt.engines.native.batch import Batch, Stage, prepare
from tokenwatt.engines.native.pages import PagePool, pages_for
from tokenwatt.engines.native.scheduler import Scheduler, Step
from tokenwatt.engines.native.sequence import NO_ROW
from tokenwatt.engines.native.table import Table
from tokenwatt.workloads import Request

ROWS, PAGE_SIZE, BUDGET, LONGEST = 256, 64, 8192, 2048


class Steps:
    """A closed loop of ROWS sequences without a model: whatever ends is followed by another request."""

    def __init__(self, *, prefix_caching: bool = False) -> None:
        max_pages = pages_for(LONGEST, PAGE_SIZE)
        self.rng = np.random.default_rng(0)
        self.table = Table(ROWS, max_pages)
        self.scheduler = Scheduler(self.table, PagePool(ROWS * max_pages), PAGE_SIZE, BUDGET, prefix_caching)
        self.stage = Stage(ROWS, BUDGET, max_pages, torch.device("cpu"))
        self.ended = 0
        self.index = 0

    def add(self, isl: int, osl: int) -> None:
        self.index += 1
        prompt = self.rng.integers(0, 32_000, isl, dtype=np.int32)
        self.scheduler.add(Request(self.index, prompt, osl))

    def fill(self, isl: tuple[int, int], osl: tuple[int, int]) -> None:
        """Requests of random lengths for all that run no more."""
        while self.scheduler.num_running + self.scheduler.num_waiting < ROWS:
            self.add(int(self.rng.integers(*isl)), int(self.rng.integers(*osl)))

    def run(self) -> tuple[Step, Batch]:
        """What is timed."""
        step = self.scheduler.schedule()
        assert step is not None
        return step, prepare(step, self.table, PAGE_SIZE, self.stage)

    def follow(self, step: Step) -> None:
        self.ended += sum(sequence.row == NO_ROW for sequence in step.sequences)


def test_steps_that_decode(benchmark):
    """Contexts grow from 1024 to 2048, and four of 256 sequences want a page in each step."""
    steps = Steps()
    for place in range(ROWS):
        steps.add(1024 - place % PAGE_SIZE, 1000)
    while steps.run()[0].chunks:
        pass
    step, batch = benchmark.pedantic(steps.run, rounds=800, warmup_rounds=50)
    assert len(step.rows) == len(batch.rows) == ROWS
    assert not step.chunks


@pytest.mark.parametrize("prefix_caching", [False, True])
def test_steps_that_admit(benchmark, prefix_caching):
    """100 to 1000 tokens each: about every other step takes a new prompt of 500 to 1000 tokens."""
    steps = Steps(prefix_caching=prefix_caching)

    def refill() -> None:
        steps.fill((500, 1001), (100, 1001))

    refill()
    for _ in range(1000 if benchmark.enabled else 0):
        steps.run()
        refill()
    _, batch = benchmark.pedantic(steps.run, setup=refill, rounds=2000)
    assert len(batch.rows) <= ROWS


def test_a_step_with_a_prompt(benchmark):
    """255 sequences decode beside a prompt of 750 tokens with one output token, in each step."""
    steps = Steps()
    for place in range(ROWS - 1):
        steps.add(1024 - place % PAGE_SIZE, 1000)
    while steps.run()[0].chunks:
        pass
    step, _ = benchmark.pedantic(steps.run, setup=lambda: steps.add(750, 1), rounds=800)
    assert (step.decodes, len(step.chunks)) == (ROWS - 1, 1)


@pytest.mark.slow
def test_steps_do_not_grow_with_requests_that_ended(benchmark):
    """extra_info: the median of 500 steps after 20,000 requests by that of the first 500."""
    steps = Steps(prefix_caching=True)

    def timed(count: int) -> list[float]:
        times = []
        for _ in range(count):
            steps.fill((64, 129), (50, 151))
            start = perf_counter()
            step, _ = steps.run()
            times.append(perf_counter() - start)
            steps.follow(step)
        return times

    def both() -> float:
        timed(1000)  # until those that came together have drifted apart
        first = median(timed(500))
        while steps.ended < 20_000:
            timed(1)
        return median(timed(500)) / first

    benchmark.extra_info["ratio"] = benchmark.pedantic(both, rounds=1)
    assert steps.ended >= 20_000
