"""The queue between those who ask and an engine."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import numpy as np

from tokenwatt.load.arrivals import Arrivals
from tokenwatt.load.source import Source
from tokenwatt.workloads import Request


class Sent(NamedTuple):
    """A request as it went out."""

    request_index: int
    isl: int
    osl: int
    due_s: float
    """When it was meant to go out, from which latencies count."""
    sent_s: float
    """When the engine took it."""
    is_ramp: bool
    """Sent at the start in mid-life, a part of its output already in its prompt."""
    conversation: int
    turn: int


def _ignore(sent: Sent) -> None:
    """Nobody listens."""


@dataclass(slots=True)
class Load:
    """What an engine takes its requests from, and whom it tells when an answer is over.

    An engine that serves one does, over and over: take what is due, work, and call `ended` for each request whose last
    token, or failure, is there; it is done when nothing is in flight and `next_s` is None.
    """

    source: Source
    begins: Iterator[float]
    """When conversations begin by themselves, seconds since the first `take`, in order; it can be pickled."""
    refills: bool = False
    """Whether another conversation begins at the moment when one ends: a closed loop."""
    slots_in_mid_life: int = 0
    """The first so many conversations begin at ages spread evenly, so that contexts and finishing times are those of
    the steady state from the start, instead of all slots marching in step."""
    on_sent: Callable[[Sent], None] = _ignore
    """Hears of each request as it goes out."""
    reads_output: bool = False
    """Whether somebody wants to know what is answered, though nothing follows from it."""
    _began_s: float | None = None
    _next_begin_s: float | None = None
    _opened: int = 0
    """Conversations that were begun."""
    _is_exhausted: bool = False
    """Whether the source has no further conversation."""
    _due: list[tuple[float, int, Request, bool]] = field(default_factory=list)
    """A heap, by time and then in the order in which they were put there; True for a request in mid-life."""
    _order: int = 0
    _ahead: deque[tuple[Request, bool]] = field(default_factory=deque)
    """Openings of the next conversations, as far as somebody has asked for them before they begin."""
    _in_flight: dict[int, Request] = field(default_factory=dict)

    @classmethod
    def closed(cls, source: Source, concurrency: int, in_mid_life: bool = False, ramp_s: float = 0.0) -> Self:
        """`concurrency` conversations are kept going, begun evenly over `ramp_s`."""
        begins = iter([ramp_s * slot / concurrency for slot in range(concurrency)])
        return cls(source, begins, refills=True, slots_in_mid_life=concurrency if in_mid_life else 0)

    @classmethod
    def open(cls, source: Source, arrivals: Arrivals) -> Self:
        """Conversations come when they come, whatever the engine does."""
        return cls(source, arrivals)

    @classmethod
    def offline(cls, source: Source, conversations: int) -> Self:
        """All at once."""
        return cls(source, iter([0.0] * conversations))

    @classmethod
    def replay(cls, source: Source, timetable: Sequence[float], speed: float = 1.0) -> Self:
        """At the instants of a trace (seconds, in order), so many times as fast."""
        return cls(source, iter([at_s / speed for at_s in timetable]))

    def take(self, now_s: float) -> Iterator[Request]:
        """Requests that are due by now, in order; each is handed out once, and then in flight."""
        self._begin_conversations(now_s)
        while self._due and self._due[0][0] <= now_s:
            due_s, _, request, is_ramp = heapq.heappop(self._due)
            self._in_flight[request.index] = request
            isl, osl = len(request.prompt), request.max_tokens
            sent = Sent(request.index, isl, osl, due_s, now_s, is_ramp, request.conversation, request.turn)
            self.on_sent(sent)
            yield request

    def ended(self, index: int, at_s: float, output: Sequence[int] = (), failed: bool = False) -> None:
        """The answer to request `index` was over at `at_s`; a conversation does not go on after a failure.

        output: its token ids, where the engine sees them.
        """
        request = self._in_flight.pop(index)
        follow_up = None if failed else self.source.follow_up(request, output)
        if follow_up is not None:
            self._push(at_s + follow_up.think_s, follow_up.request)
        elif self.refills:
            self._open(at_s)

    def coming(self, count: int) -> list[Request]:
        """Requests that are known to come, as they will be handed out: so many of the queue, then so many openings.

        For those who have something to prepare; it changes nothing of what is handed out, or when.
        """
        while len(self._ahead) < count and (ahead := self._make_opening(len(self._ahead))) is not None:
            self._ahead.append(ahead)
        queued = [request for _, _, request, _ in itertools.islice(self._due, count)]
        return [*queued, *(request for request, _ in itertools.islice(self._ahead, count))]

    @property
    def has_follow_ups(self) -> bool:
        """Whether what was answered decides what is asked next."""
        return self.source.has_follow_ups

    @property
    def needs_output(self) -> bool:
        """Whether the engine should say which tokens it answers with."""
        return self.reads_output or self.has_follow_ups

    @property
    def next_s(self) -> float | None:
        """When the next request is due, as far as is known now; None before the first `take`, and if nothing will be
        due unless an answer ends."""
        begin_s = self._next_begin()
        if not self._due:
            return begin_s
        return self._due[0][0] if begin_s is None else min(begin_s, self._due[0][0])

    def _begin_conversations(self, now_s: float) -> None:
        if self._began_s is None:
            self._began_s = now_s
        while (begin_s := self._next_begin()) is not None and begin_s <= now_s:
            self._next_begin_s = None
            self._open(begin_s)

    def _next_begin(self) -> float | None:
        """When the next conversation begins by itself, on the engine's clock."""
        if self._began_s is None or self._is_exhausted:
            return None
        if self._next_begin_s is None:
            self._next_begin_s = next(self.begins, math.inf)
        return None if math.isinf(self._next_begin_s) else self._began_s + self._next_begin_s

    def _open(self, at_s: float) -> None:
        opening = self._ahead.popleft() if self._ahead else self._make_opening(0)
        if opening is None:
            self._is_exhausted = True
            return
        self._opened += 1
        self._push(at_s, *opening)

    def _make_opening(self, ahead: int) -> tuple[Request, bool] | None:
        """First request of the conversation that is `ahead` of the next one, and whether it is sent in mid-life."""
        place = self._opened + ahead
        request = self.source.opening(place)
        if request is None:
            return None
        is_ramp = place < self.slots_in_mid_life - 1
        return in_mid_life(request, (place + 1) / self.slots_in_mid_life) if is_ramp else request, is_ramp

    def _push(self, due_s: float, request: Request, is_ramp: bool = False) -> None:
        heapq.heappush(self._due, (due_s, self._order, request, is_ramp))
        self._order += 1


def in_mid_life(request: Request, left: float) -> Request:
    """The request as it stands with the share `left` of its output to come: what it has produced is in its prompt."""
    to_come = max(1, round(request.max_tokens * left))
    length = len(request.prompt) + request.max_tokens - to_come
    return replace(request, prompt=np.resize(request.prompt, length), max_tokens=to_come)
