"""One run: requests go into vLLM's event loop, and its tokens come back in the order of their time.

Whoever takes the events has a thread of its own beside the loop's, so that vLLM is not held up by what they do with
them. All events are made in the loop's thread, which is why they are in order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.outputs import CompletionOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineGenerateError

from tokenwatt.clock import Clock
from tokenwatt.engines.protocol import Failure, TokenEvent
from tokenwatt.engines.vllm_engine.loop import Loop
from tokenwatt.engines.vllm_engine.sampling import sampling_params
from tokenwatt.engines.vllm_engine.statistics import Statistics
from tokenwatt.load import Load
from tokenwatt.record import RequestStatus
from tokenwatt.workloads import Request

SERVED = ("length", "stop")
"""vLLM's reasons for an end that is one."""


@dataclass(slots=True)
class Run:
    """Requests of one load on their way through vLLM."""

    vllm: AsyncLLM
    loop: Loop
    load: Load
    clock: Clock
    statistics: Statistics
    refusal: Callable[[Request], str | None]
    """Why a request cannot be served; vLLM would end, or do something else, instead of saying so."""
    _events: SimpleQueue[TokenEvent | BaseException] = field(default_factory=SimpleQueue)
    _answers: dict[int, list[int]] = field(default_factory=dict)
    """Token ids so far of each request in flight."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def events(self) -> Iterator[TokenEvent]:
        """Everything that happens, until nothing is in flight and nothing will be due.

        Raises:
            EngineDeadError: vLLM's engine has ended.
        """
        try:
            while self._take():
                event = self._next()
                if isinstance(event, BaseException):
                    raise event
                if event is not None:
                    self._answers[event.request_index].extend(event.token_ids)
                    if event.is_last:
                        output = self._answers.pop(event.request_index)
                        self.load.ended(event.request_index, event.at_s, output, failed=event.failure is not None)
                    yield event
        finally:
            self.loop.run(self._abandon())

    def _take(self) -> bool:
        """Hand over what is due; whether there is anything to wait for."""
        for request in self.load.take(self.clock()):
            self._answers[request.index] = []
            self.loop.soon(self._begin, request)
        return bool(self._answers) or self.load.next_s is not None

    def _next(self) -> TokenEvent | BaseException | None:
        """What happens next; None if another request is due before."""
        next_s = self.load.next_s
        within_s = None if next_s is None else max(0.0, next_s - self.clock())
        if not self._answers:
            time.sleep(within_s or 0.0)
            return None
        try:
            return self._events.get(timeout=within_s)
        except Empty:
            return None

    def _begin(self, request: Request) -> None:
        why = self.refusal(request)
        if why is not None:
            self._fail(request, RequestStatus.REFUSED, why)
            return
        task = asyncio.ensure_future(self._serve(request))
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        """What a request did not survive ends the run."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._events.put(error)

    async def _serve(self, request: Request) -> None:
        prompt = tokens_input(request.prompt.tolist())
        try:
            async for output in self.vllm.generate(prompt, sampling_params(request), str(request.index)):
                self._pass_on(request, output.outputs[0], is_last=output.finished)
        except VLLMClientError as error:
            self._fail(request, RequestStatus.REFUSED, str(error))
        except GracefulHTTPError as error:
            self._fail(request, RequestStatus.OVERLOADED, str(error))
        except EngineGenerateError as error:
            self._fail(request, RequestStatus.SERVER_ERROR, str(error.__cause__))

    def _pass_on(self, request: Request, output: CompletionOutput, *, is_last: bool) -> None:
        """Tokens, stamped as they are handed over."""
        if output.finish_reason is not None and output.finish_reason not in SERVED:
            self._fail(request, RequestStatus.SERVER_ERROR, f"vLLM ended it with {output.finish_reason!r}")
            return
        tokens = tuple(output.token_ids)
        self._events.put(TokenEvent(request.index, self.clock(), len(tokens), is_last, self.statistics.running, tokens))

    def _fail(self, request: Request, status: RequestStatus, why: str) -> None:
        failure = Failure(status, why)
        self._events.put(TokenEvent(request.index, self.clock(), 0, True, self.statistics.running, failure=failure))

    async def _abandon(self) -> None:
        """Cancelled, a request is aborted by vLLM."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
