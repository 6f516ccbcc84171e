"""What the tests of this engine share: a load, run to its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tests.engines.endpoint.timed_server import Script, Served

from tokenwatt.clock import RunClock
from tokenwatt.engines.openai_endpoint.engine import EndpointEngine
from tokenwatt.engines.protocol import TokenEvent
from tokenwatt.load import Listed, Load, Sent
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import GREEDY, Request, Sampling


def requests(count: int, osl: int = 8, sampling: Sampling = GREEDY) -> tuple[Request, ...]:
    """Short ones; the prompt of each is its index, four times."""
    return tuple(Request(i, np.full(4, i, dtype=np.int32), osl, sampling, conversation=i) for i in range(count))


def engine(url: str, **options: Any) -> EndpointEngine:
    """The engine in front of a server, not loaded."""
    spec = BenchSpec(
        engine="openai_endpoint", workloads=("chat",), concurrency=(1,), options={"base_url": url, **options}
    )
    return EndpointEngine(spec)


def scripted(**changes: Any) -> dict[str, Any]:
    """Option `extra_body` that changes the server's script."""
    Script(**changes)
    return {"script": changes}


@dataclass
class Run:
    """All that came of a load."""

    clock: RunClock = field(default_factory=RunClock)
    sent: list[Sent] = field(default_factory=list)
    events: list[TokenEvent] = field(default_factory=list)

    def of(self, index: int) -> list[TokenEvent]:
        """Events of one request."""
        return [event for event in self.events if event.request_index == index]

    def tokens(self, index: int) -> int:
        """Tokens of one request."""
        return sum(event.tokens for event in self.of(index))

    def status(self, index: int) -> str:
        """How a request ended; it must have ended once."""
        (last,) = (event for event in self.of(index) if event.is_last)
        return last.failure.status.value if last.failure else "complete"

    def detail(self, index: int) -> str:
        """Why it ended so."""
        failure = self.of(index)[-1].failure
        return failure.detail if failure else ""


def run(server: EndpointEngine, load: Load) -> Run:
    """Serve a load to its end."""
    outcome = Run()
    load.on_sent = outcome.sent.append
    outcome.events += server.serve(load, outcome.clock)
    return outcome


def run_requests(served: Served, count: int = 2, osl: int = 8, concurrency: int = 2, **options: Any) -> Run:
    """Load the engine, serve a closed loop of short requests, and close."""
    subject = engine(served.url, **options)
    subject.load(concurrency, 64)
    try:
        return run(subject, Load.closed(Listed(requests(count, osl)), concurrency))
    finally:
        subject.close()
