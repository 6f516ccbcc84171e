"""Device times of several functions, interleaved, each run with a cold L2 cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import cast

Sampler = Callable[[Callable[[], object]], Sequence[float]]
MS_PER_S = 1e3


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call: the median, and the 20 % and 80 % quantiles, over `samples` calls."""

    median_s: float
    low_s: float
    high_s: float
    samples: int


def cold_l2_samples(function: Callable[[], object], warmup_ms: int = 25, repeat_ms: int = 50) -> list[float]:
    """Seconds of every timed call on the current CUDA device. The L2 cache is overwritten before each."""
    from triton.testing import do_bench

    times_ms = cast("list[float]", do_bench(function, warmup=warmup_ms, rep=repeat_ms, return_mode="all"))
    return [time_ms / MS_PER_S for time_ms in times_ms]


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
