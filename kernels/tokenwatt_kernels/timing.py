"""Device times of several functions, interleaved, each run with a cold L2 cache; and loops long enough to meter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

import torch

Sampler = Callable[[Callable[[], object]], Sequence[float]]
Clock = Callable[[], float]
MS_PER_S = 1e3
FLUSH_BYTES = 256 * 2**20  # twice the largest L2 of targets.py, 126 MB of a B200
PROBES = 5
HEAD_START = 3.0  # the wait before a call, as a multiple of the time in which the host queues it
CYCLES_PER_S = 3e9  # above the clock of any GPU, so that a wait is never shorter than asked
BLOCK_S = 0.05  # the host never runs further ahead of the device in a loop
LAUNCHED_TOGETHER = 500  # calls: few enough to capture in milliseconds, enough to hide the launch of a graph


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call: the median, and the 20 % and 80 % quantiles, over `samples` calls."""

    median_s: float
    low_s: float
    high_s: float
    samples: int


def cold_l2_samples(function: Callable[[], object], warmup_ms: int = 25, repeat_ms: int = 50) -> list[float]:
    """Seconds of every timed call on the current CUDA stream. Before each, the L2 cache is filled with other data.

    That is read, not written: lines that have to be written back would take bandwidth from the call, for up to 10 us.

    Python needs some 100 us to check arguments, allocate and launch, which may be longer than the kernel itself. So the
    GPU is kept waiting before the start event until everything up to the end event is queued, and the events enclose
    device time alone. A function that synchronises cannot be timed like this.
    """
    flush = torch.zeros(FLUSH_BYTES // 4, device="cuda")
    read = torch.empty((), device="cuda")

    def repeat(times: int, wait_cycles: int) -> list[float]:
        pairs = []
        for _ in range(times):
            torch.sum(flush, 0, out=read)
            torch.cuda._sleep(wait_cycles)
            pairs.append(_between_events(function))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / MS_PER_S for start, end in pairs]

    repeat(1, wait_cycles=0)  # compiles, and loads what is loaded lazily
    wait_cycles = int(HEAD_START * _host_s(function) * CYCLES_PER_S)
    began = perf_counter()
    repeat(PROBES, wait_cycles)
    estimate_ms = (perf_counter() - began) / PROBES * MS_PER_S
    warmups = max(1, int(warmup_ms / estimate_ms))
    repeats = max(2, int(repeat_ms / estimate_ms))  # one sample has no median
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


@dataclass(frozen=True, slots=True)
class Loop:
    """`calls` calls from `start_s` to `end_s` of the caller's clock; at both, the device had nothing left to do.

    queueing_s: how long of that the host was busy queueing. Close to all of it means that the device waited for it.
    """

    calls: int
    start_s: float
    end_s: float
    queueing_s: float


def loop(
    function: Callable[[], object], call_s: float, clock: Clock, window_s: float = 2.0, margin_s: float = 0.0
) -> Loop:
    """Call `function`, which takes about `call_s`, without a pause for at least `window_s`, for a meter that looks on.

    The L2 cache is warm, other than in `cold_l2_samples`: flushing it would cost energy of its own. The calls begin
    `margin_s` before the window and go on as long after it, so that the meter sees both of its edges under load. The
    device is waited for once every BLOCK_S, or after each call where that takes longer.
    """
    together = max(1, min(int(BLOCK_S / call_s), LAUNCHED_TOGETHER))
    launches = max(1, int(BLOCK_S / (together * call_s)))
    launch = in_one_launch(function, together)

    def repeat_until(end_s: float) -> tuple[int, float]:
        blocks, queueing_s = 0, 0.0
        while (began_s := clock()) < end_s:
            for _ in range(launches):
                launch()
            queueing_s += clock() - began_s
            torch.cuda.synchronize()
            blocks += 1
        return blocks * launches * together, queueing_s

    repeat_until(clock() + margin_s)
    start_s = clock()
    calls, queueing_s = repeat_until(start_s + window_s)
    end_s = clock()
    repeat_until(end_s + margin_s)
    return Loop(calls, start_s, end_s, queueing_s)


def in_one_launch(function: Callable[[], object], calls: int) -> Callable[[], object]:
    """`calls` calls as one CUDA graph, because the host may need longer to queue a call than the device to run it.

    Where they cannot be captured, they are queued one by one.
    """

    def one_by_one() -> None:
        for _ in range(calls):
            function()

    try:
        graph = torch.cuda.CUDAGraph()
        # The outer context gives the stream back where a capture that failed does not.
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
            one_by_one()
    except RuntimeError:
        return one_by_one
    return graph.replay
