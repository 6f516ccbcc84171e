"""Device times of several functions, interleaved, each run with a cold L2 cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

import torch

Sampler = Callable[[Callable[[], object]], Sequence[float]]
MS_PER_S = 1e3
FLUSH_BYTES = 256 * 2**20  # twice the largest L2 of targets.py, 126 MB of a B200
PROBES = 5
HEAD_START = 3.0  # the wait before a call, as a multiple of the time in which the host queues it
CYCLES_PER_S = 3e9  # above the clock of any GPU, so that a wait is never shorter than asked


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call: the median, and the 20 % and 80 % quantiles, over `samples` calls."""

    median_s: float
    low_s: float
    high_s: float
    samples: int


def cold_l2_samples(function: Callable[[], object], warmup_ms: int = 25, repeat_ms: int = 50) -> list[float]:
    """Seconds of every timed call on the current CUDA stream. The L2 cache is overwritten before each.

    Python needs some 100 us to check arguments, allocate and launch, which may be longer than the kernel itself. So the
    GPU is kept waiting before the start event until everything up to the end event is queued, and the events enclose
    device time alone. A function that synchronises cannot be timed like this.
    """
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def repeat(times: int, wait_cycles: int) -> list[float]:
        pairs = []
        for _ in range(times):
            flush.zero_()
            torch.cuda._sleep(wait_cycles)
            pairs.append(_between_events(function))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / MS_PER_S for start, end in pairs]

    repeat(1, wait_cycles=0)  # compiles, and loads what is loaded lazily
    wait_cycles = int(HEAD_START * _host_s(function) * CYCLES_PER_S)
    began = perf_counter()
    repeat(PROBES, wait_cycles)
    estimate_ms = (perf_counter() - began) / PROBES * MS_PER_S
    warmups, repeats = (max(1, int(budget_ms / estimate_ms)) for budget_ms in (warmup_ms, repeat_ms))
    return repeat(warmups + repeats, wait_cycles)[warmups:]


def _between_events(function: Callable[[], object]) -> tuple[torch.cuda.Event, torch.cuda.Event]:
    """Queue one call between two timed events."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    return start, end


def _host_s(function: Callable[[], object]) -> float:
    """Seconds in which the host queues one call and its events, with nothing queued before: the median of a few."""
    seconds = []
    for _ in range(PROBES):
        torch.cuda.synchronize()
        began = perf_counter()
        _between_events(function)
        seconds.append(perf_counter() - began)
    return median(seconds)


def interleave(
    functions: Mapping[str, Callable[[], object]], rounds: int = 4, sampler: Sampler = cold_l2_samples
) -> dict[str, Timing]:
    """Time all functions in turn, `rounds` times, forwards then backwards, so that clock drift hits all alike."""
    samples: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    for _ in range(rounds):
        for name in order:
            samples[name].extend(sampler(functions[name]))
        order.reverse()
    return {name: summarise(values) for name, values in samples.items()}


def summarise(samples_s: Sequence[float]) -> Timing:
    """Median and 20 % and 80 % quantiles, interpolated linearly between samples.

    >>> summarise([5.0, 1.0, 2.0, 4.0, 3.0, 6.0])
    Timing(median_s=3.5, low_s=2.0, high_s=5.0, samples=6)
    """
    if len(samples_s) < 2:
        raise ValueError(f"samples_s must have at least 2 values, got {len(samples_s)}")
    tenths = quantiles(samples_s, n=10, method="inclusive")
    return Timing(median_s=tenths[4], low_s=tenths[1], high_s=tenths[7], samples=len(samples_s))
