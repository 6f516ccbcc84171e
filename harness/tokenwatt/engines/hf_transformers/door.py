"""Where requests come in: those that transformers cannot serve are turned away, the others wait."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tokenwatt.clock import Clock
from tokenwatt.engines.hf_transformers.sampling import same_draws
from tokenwatt.engines.protocol import TokenEvent, refuse
from tokenwatt.load import Load
from tokenwatt.workloads import Request, Sampling


@dataclass(slots=True)
class Door:
    """One run's requests on their way in; the first that is served decides how all are sampled."""

    load: Load
    clock: Clock
    refusal: Callable[[Request], str | None]
    """Why a request cannot be served, whatever runs beside it."""
    waiting: deque[Request] = field(default_factory=deque)
    """Requests that were taken and are not served yet, in order."""
    _sampling: Sampling | None = None

    def admit(self) -> Iterator[TokenEvent]:
        """Let what is due wait; yields the events of requests that are turned away."""
        for request in self.load.take(self.clock()):
            why = self.refusal(request)
            if why is None and self._sampling is not None and not same_draws(self._sampling, request.sampling):
                why = "engine 'hf_transformers' samples all requests of a run alike; this one differs from the first"
            if why is not None:
                yield refuse(request, why, self.load, self.clock())
                continue
            self._sampling = self._sampling or request.sampling
            self.waiting.append(request)

    def rest(self) -> bool:
        """Sleep until something is due; whether anything will be."""
        next_s = self.load.next_s
        if next_s is None:
            return False
        time.sleep(max(0.0, next_s - self.clock()))
        return True

    def ended(self, request: Request, at_s: float, output: Sequence[int]) -> None:
        """The answer to a request is over."""
        self.load.ended(request.index, at_s, output)
