"""Engine `fake`: a scripted timeline with exactly known rates, for tests and `make demo`. It computes nothing."""

from __future__ import annotations

import heapq
import math
import random
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from pydantic import Field, PositiveFloat, PositiveInt

from tokenwatt import __version__
from tokenwatt.clock import Clock
from tokenwatt.engines.protocol import EngineIdentity, EngineReport, Probes, TokenEvent
from tokenwatt.errors import EngineError
from tokenwatt.load import Load
from tokenwatt.spec import BenchSpec, Spec, validate
from tokenwatt.workloads import Request


class FakeOptions(Spec):
    """The script: each request's first token comes `ttft_s` after it begins, each next one `tpot_s` later."""

    ttft_s: PositiveFloat = 0.05
    """Time to first token, seconds."""
    tpot_s: PositiveFloat = 0.01
    """Time per further token, seconds."""
    fail_after_tokens: int | None = Field(default=None, ge=0)
    """Raise an engine error once so many tokens were emitted."""
    slots: PositiveInt | None = None
    """Requests that run together; the others wait their turn. Without it each begins when it is sent."""
    jitter: float = Field(default=0.0, ge=0, le=1)
    """Standard deviation of the logarithm of a request's pace: each draws its own, from the seed of the bench."""


@dataclass(slots=True)
class _Stream:
    request: Request
    tpot_s: float
    emitted: int = 0


class FakeEngine:
    """Serves streams that never slow each other: of a closed loop, C x osl / (ttft + (osl - 1) x tpot) tokens/s."""

    def __init__(self, spec: BenchSpec) -> None:
        self._script = validate(spec.options, FakeOptions, where="options of engine 'fake'")
        self._rng = random.Random(spec.seed)  # noqa: S311 (a script, not a secret)

    @property
    def identity(self) -> EngineIdentity:
        """A scripted engine without model or device; it cannot say which GPUs draw power meanwhile."""
        return EngineIdentity("fake", __version__, None, None, "none", "none", gpu_uuids=None)

    def check(self, longest_context: int, vocabulary: int) -> None:
        """Accept every request."""

    def load(self, max_concurrency: int, longest_context: int) -> None:
        """Nothing to load."""

    def warm_up(self, requests: Sequence[Request], concurrency: int, clock: Clock) -> None:
        """Nothing to warm up."""

    def serve(self, load: Load, clock: Clock) -> Generator[TokenEvent, None, None]:
        """Emit each token at its scripted instant; requests are sent at the very instant at which they are due."""
        due, waiting = list[tuple[float, int, _Stream]](), deque[Request]()

        def send(at_s: float) -> None:
            waiting.extend(load.take(at_s))
            while waiting and len(due) < (self._script.slots or math.inf):
                request = waiting.popleft()
                stream = _Stream(request, self._script.tpot_s * math.exp(self._rng.gauss(0.0, self._script.jitter)))
                heapq.heappush(due, (at_s + self._script.ttft_s, request.index, stream))

        send(clock())
        emitted = 0
        while due or load.next_s is not None:
            if not due or (load.next_s is not None and load.next_s < due[0][0]):
                send(_wait_until(load.next_s, clock))
                continue
            at_s, index, stream = heapq.heappop(due)
            _wait_until(at_s, clock)
            if emitted == self._script.fail_after_tokens:
                raise EngineError(f"scripted failure after {emitted} tokens")
            running = len(due) + 1
            emitted += 1
            stream.emitted += 1
            is_last = stream.emitted == stream.request.max_tokens
            if is_last:
                load.ended(index, at_s)
                send(at_s)
            else:
                heapq.heappush(due, (at_s + stream.tpot_s, index, stream))
            yield TokenEvent(index, at_s, 1, is_last, running)

    def report(self, start_s: float, end_s: float) -> EngineReport:
        """It computes nothing."""
        return EngineReport()

    def probes(self, start_s: float, end_s: float) -> Probes:
        """It has no kernels."""
        return Probes()

    def close(self) -> None:
        """Nothing to give back."""


def _wait_until(at_s: float | None, clock: Clock) -> float:
    """Sleep until an instant, and return it."""
    assert at_s is not None
    time.sleep(max(0.0, at_s - clock()))
    return at_s
