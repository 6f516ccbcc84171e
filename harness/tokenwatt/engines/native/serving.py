"""One run of an engine: requests come in, steps go out, tokens come back. All ranks of a shared model run the same."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tokenwatt.architecture import Architecture, LatentAttention
from tokenwatt.clock import Clock
from tokenwatt.engines.limits import refusal_of
from tokenwatt.engines.native.accounting import Accounting, StepLog, StepShape
from tokenwatt.engines.native.options import NativeOptions
from tokenwatt.engines.native.pages import PagePool, pages_for
from tokenwatt.engines.native.runner import Launched, Runner
from tokenwatt.engines.native.scheduler import Scheduler
from tokenwatt.engines.native.sequence import Sequence
from tokenwatt.engines.native.table import Table
from tokenwatt.engines.protocol import TokenEvent, refuse
from tokenwatt.errors import EngineError
from tokenwatt.load import Load
from tokenwatt.workloads import Request


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model on its device, with the memory and the limits that it was loaded for."""

    architecture: Architecture
    options: NativeOptions
    runner: Runner
    table: Table
    accounting: Accounting | None
    num_pages: int
    max_step_tokens: int
    longest_context: int

    def refusal(self, request: Request) -> str | None:
        """Why a request cannot be served; None if it can."""
        why = refusal_of(self.architecture, self.longest_context, request)
        if why is not None:
            return why
        pages = pages_for(len(request.prompt) + request.max_tokens - 1, self.options.page_size)
        if pages > self.num_pages:
            return f"the request needs {pages} pages of the KV cache, which has {self.num_pages}"
        return None


class Output(NamedTuple):
    """A token of a sequence, on the host."""

    sequence: Sequence
    token: int
    is_last: bool
    at_s: float
    running: int
    """Sequences of the step that it came from."""


class Serving:
    """Sequences in flight over empty pages: what an earlier run has cached would spoil a measurement."""

    def __init__(self, loaded: Loaded, check: Callable[[], None] | None = None) -> None:
        """check: raises an error if tokens that are waited for will not come; None where they always do."""
        options = loaded.options
        self.in_flight = 0
        """Requests whose last token is not on the host."""
        self.log = StepLog()
        is_latent = isinstance(loaded.architecture.attention, LatentAttention)
        self.scheduler = Scheduler(
            loaded.table, PagePool(loaded.num_pages), options.page_size, loaded.max_step_tokens,
            options.prefix_caching, loaded.max_step_tokens if is_latent else math.inf,
        )  # fmt: skip
        self._loaded = loaded
        self._check = check
        self._launched: Launched | None = None

    def answer(
        self, load: Load, clock: Clock, tell: Callable[[list[Request]], None] | None = None
    ) -> Iterator[TokenEvent]:
        """Events of what is due, until nothing is in flight and nothing will be due.

        A request that cannot be served has one event, with the reason; the others go on. Requests beyond the rows of
        the table wait in the scheduler.
        tell: is called before each step with the requests that it is the first to see.
        """
        while True:
            taken = list[Request]()
            for request in load.take(clock()):
                why = self._loaded.refusal(request)
                if why is None:
                    self.add(request)
                    taken.append(request)
                else:
                    yield refuse(request, why, load, clock(), self.scheduler.num_running)
            if not self.in_flight:
                if load.next_s is None:
                    return
                time.sleep(max(0.0, load.next_s - clock()))
                continue
            if tell is not None:
                tell(taken)
            for sequence, token, is_last, at_s, running in self.advance(clock):
                index = sequence.request.index
                if is_last:
                    load.ended(index, at_s, sequence.output)
                yield TokenEvent(index, at_s, 1, is_last, running, (token,))

    def add(self, request: Request) -> None:
        """Let a request take its turn; it must be one that is not refused."""
        self.scheduler.add(request)
        self.in_flight += 1

    def advance(self, clock: Clock) -> list[Output]:
        """Launch the next step, then wait for the tokens of the one before."""
        before, self._launched = self._launched, self._launch()
        if before is None and self._launched is None and self.in_flight:
            raise EngineError(f"{self.in_flight} requests are in flight, and none of them can run: please report this")
        outputs = [] if before is None else self._outputs(before, clock)
        if self._launched is not None and not self._loaded.options.overlap:
            outputs += self._outputs(self._launched, clock)
            self._launched = None
        return outputs

    def abandon(self) -> None:
        """Free what is in flight, once the device is done with it."""
        if self._launched is not None:
            self._launched.tokens(self._check)
            self._launched = None
        self.scheduler.abandon()

    def _launch(self) -> Launched | None:
        step = self.scheduler.schedule()
        return None if step is None else self._loaded.runner.launch(step)

    def _outputs(self, launched: Launched, clock: Clock) -> list[Output]:
        step, tokens, at_s = launched.step, launched.tokens(self._check), clock()
        if self._loaded.accounting is not None:
            self.log.note(at_s, self._loaded.accounting.of(step), StepShape.of(step))
        outputs = []
        for sequence, token in zip(step.sequences, tokens, strict=True):
            if sequence.is_over:  # by a stop token, when this step was launched already
                continue
            self.scheduler.note_output(sequence, token)
            request = sequence.request
            is_last = len(sequence.output) == request.max_tokens or token in request.sampling.stop_token_ids
            if is_last:
                self.scheduler.finish(sequence)
                self.in_flight -= 1
            outputs.append(Output(sequence, token, is_last, at_s, len(step.rows)))
        return outputs
