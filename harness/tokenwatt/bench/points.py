"""What there is to measure: every pair of workload and concurrency, as it is and in its two phases."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tokenwatt.record import Phase
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import Request, Workload, load_workload

DECODE_ROOM = 1024
"""Tokens beyond twice its workload's longest context that a sequence of decode alone may reach."""


@dataclass(frozen=True, slots=True)
class DecodeLength:
    """Length of the sequences of decode alone."""

    prompt_tokens: int
    output_tokens: int
    """More than it will have by the end of the run."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement to take, in one or several windows."""

    workload: Workload
    concurrency: int
    window_s: float
    phase: Phase = "mixed"
    decode: DecodeLength | None = None
    """Of phase `decode` alone."""
    cap_w: float | None = None
    """Power limit to set on each GPU; None leaves it as it is."""
    note: str | None = None
    """What the reader of its rows must know."""

    @property
    def label(self) -> str:
        """Name for people."""
        parts = [self.workload.name, f"x{self.concurrency}"]
        parts += [] if self.phase == "mixed" else [self.phase]
        parts += [] if self.cap_w is None else [f"at {self.cap_w:g} W"]
        return " ".join(parts)

    def requests(self) -> Iterator[Request]:
        """What is asked: the workload's requests, their prompts alone, or C sequences of one length."""
        requests = self.workload.requests()
        if self.phase == "prefill":
            return (replace(request, max_tokens=1) for request in requests)
        if self.decode is not None:
            return map(self.decode_request, itertools.islice(requests, self.concurrency))
        return requests

    def decode_request(self, request: Request) -> Request:
        """A request with the lengths of decode alone, its prompt repeated or cut, and no token that ends it."""
        assert self.decode is not None
        return replace(
            request,
            prompt=np.resize(request.prompt, self.decode.prompt_tokens),
            max_tokens=self.decode.output_tokens,
            sampling=request.sampling.model_copy(update={"stop_token_ids": ()}),
        )


def points_of(spec: BenchSpec, caps: Iterable[float] = ()) -> list[Point]:
    """Every point of a bench; with power caps once for each, highest first, before the next point."""
    falling = sorted(set(caps), reverse=True) or (None,)
    return [
        Point(workload, concurrency, spec.window_s, cap_w=cap_w)
        for workload in map(load_workload, spec.workloads)
        for concurrency in spec.concurrency
        for cap_w in falling
    ]


def longest_request(points: Iterable[Point]) -> int:
    """Tokens that a request of these points can reach."""
    return max(point.workload.longest() for point in points)


def longest_context(points: Iterable[Point], spec: BenchSpec, allowed: int | None) -> int:
    """Tokens to load an engine for: what a request can reach, and with phases what decode alone may.

    allowed: by the model; decode alone never asks for more, and takes a shorter window instead.
    """
    longest = longest_request(points)
    if not spec.phases:
        return longest
    wanted = 2 * longest + DECODE_ROOM
    return wanted if allowed is None else max(longest, min(wanted, allowed))
