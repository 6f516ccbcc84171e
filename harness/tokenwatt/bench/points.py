"""What there is to measure: every pair of workload and load, as it is and in its two phases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenwatt.load import Load, LoadPlan, Source
from tokenwatt.record import LoadKind, Phase
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import FollowUp, Request, Workload, load_workload

DECODE_ROOM = 1024
"""Tokens beyond twice its workload's longest context that a sequence of decode alone may reach."""


@dataclass(frozen=True, slots=True)
class DecodeLength:
    """Length of the sequences of decode alone."""

    prompt_tokens: int
    output_tokens: int
    """More than it will have by the end of the run."""


@dataclass(frozen=True, slots=True)
class PromptsAlone:
    """A workload's prompts, one token each: a source of requests for prefill alone."""

    workload: Workload

    @property
    def has_follow_ups(self) -> bool:
        """No."""
        return False

    def opening(self, place: int) -> Request | None:
        """The prompt of conversation `place`."""
        request = self.workload.opening(place)
        return None if request is None else replace(request, max_tokens=1)

    def follow_up(self, request: Request, output: Sequence[int]) -> FollowUp | None:
        """None: the answer is not there to go on from."""
        return None


@dataclass(frozen=True, slots=True)
class DecodesAlone:
    """C sequences of one length, for decode alone."""

    workload: Workload
    count: int
    length: DecodeLength

    @property
    def has_follow_ups(self) -> bool:
        """No."""
        return False

    def opening(self, place: int) -> Request | None:
        """A request with the lengths of decode alone, its prompt repeated or cut, and no token that ends it."""
        request = self.workload.opening(place) if place < self.count else None
        if request is None:
            return None
        return replace(
            request,
            prompt=np.resize(request.prompt, self.length.prompt_tokens),
            max_tokens=self.length.output_tokens,
            sampling=request.sampling.model_copy(update={"stop_token_ids": ()}),
        )

    def follow_up(self, request: Request, output: Sequence[int]) -> FollowUp | None:
        """None: one long answer each."""
        return None


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement to take, in one or several windows."""

    workload: Workload
    plan: LoadPlan
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
        parts = [self.workload.name, self.plan.label]
        parts += [] if self.phase == "mixed" else [self.phase]
        parts += [] if self.cap_w is None else [f"at {self.cap_w:g} W"]
        return " ".join(parts)

    @property
    def in_flight(self) -> int | None:
        """Requests kept in flight; None where their number is free: unless the loop is closed, or if users think."""
        return None if self.workload.thinks else self.plan.concurrency

    @property
    def conversations(self) -> int | None:
        """How many begin in all; None for a load without an end, and for decode alone, whose all begin at once."""
        known = self.workload.script.conversations if self.decode is None else None
        if self.plan.kind == "offline":
            return int(self.plan.level) if known is None else min(known, int(self.plan.level))
        return known

    def most_at_once(self, most: int) -> int:
        """Requests that may be in flight together, `most` at most."""
        return most if self.conversations is None else min(most, self.conversations)

    def load(self, salt: int = 0) -> Load:
        """What one run sends: the workload's conversations, their prompts alone, or C sequences of one length.

        salt: of the run; two runs with different ones send no prompt that a cache knows from the other.
        """
        source, plan = self._source(self.workload.salted(salt)), self.plan
        timetable = self.workload.timetable() if plan.kind == "replay" else None
        return plan.open(source, timetable, in_mid_life=self.decode is None and not self.workload.has_follow_ups)

    def _source(self, workload: Workload) -> Source:
        if self.phase == "prefill":
            return PromptsAlone(workload)
        if self.decode is None:
            return workload
        assert self.plan.concurrency is not None
        return DecodesAlone(workload, self.plan.concurrency, self.decode)

    def warm_up_requests(self, count: int) -> list[Request]:
        """So many of the first that it asks, without salt, or all if there are fewer."""
        source = self._source(self.workload)
        openings = (source.opening(place) for place in range(count))
        return [request for request in openings if request is not None]


KINDS: dict[str, LoadKind] = {
    "concurrency": "closed",
    "rate": "open",
    "replay_speed": "replay",
    "requests_at_once": "offline",
}
"""Key of a bench -> the kind of load that it asks for."""


def plans_of(spec: BenchSpec) -> list[LoadPlan]:
    """The loads of a bench, in its order."""
    return [
        LoadPlan(kind, level, spec.ramp_s, spec.burstiness, spec.seed)
        for key, kind in KINDS.items()
        for level in getattr(spec, key)
    ]


def points_of(spec: BenchSpec, caps: Iterable[float] = ()) -> list[Point]:
    """Every point of a bench; with power caps once for each, highest first, before the next point.

    Raises:
        UserError: a workload that is not there, or a replay of one without a timetable.
    """
    falling = sorted(set(caps), reverse=True) or (None,)
    return [
        Point(workload, plan, spec.window_s, cap_w=cap_w)
        for workload in map(load_workload, spec.workloads)
        for plan in plans_of(spec)
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
