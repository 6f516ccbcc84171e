"""Mode `generate`: a batch runs until its last request is done, then the next one begins; generate can do no more.

It does not return before its batch is done, so it runs in a thread, and a stopping criterion, which it asks after each
step, hands over the tokens of that step.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from tokenwatt.clock import Clock
from tokenwatt.engines.hf_transformers.door import Door
from tokenwatt.engines.hf_transformers.sampling import generation_config, padded
from tokenwatt.engines.native.accounting import Accounting, StepLog, StepShape
from tokenwatt.engines.native.scheduler import Step
from tokenwatt.engines.native.sequence import Sequence
from tokenwatt.engines.protocol import TokenEvent
from tokenwatt.workloads import Request


class Tokens(NamedTuple):
    """What one step gave, on the host."""

    at_s: float
    token_ids: list[int]
    """One for each request of the batch, those that are done included."""


class _Watch(StoppingCriteria):
    """Is asked after every step which requests are done, and passes on the step's tokens."""

    def __init__(self, batch: list[Request], clock: Clock, steps: SimpleQueue[Tokens | None]) -> None:
        self.is_abandoned = False
        self._clock = clock
        self._steps = steps
        self._left = [request.max_tokens for request in batch]
        self._stops = [frozenset(request.sampling.stop_token_ids) for request in batch]
        self._done = [False] * len(batch)
        self._on_device: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """input_ids: [B, T], the newest token last. Returns bool [B], whether a request is done."""
        tokens = input_ids[:, -1].tolist()
        self._steps.put(Tokens(self._clock(), tokens))
        self._left = [left - 1 for left in self._left]
        done = [
            self.is_abandoned or was or not left or token in stops
            for was, left, token, stops in zip(self._done, self._left, tokens, self._stops, strict=True)
        ]
        if self._on_device is None or done != self._done:
            self._on_device = torch.tensor(done, device=input_ids.device)
        self._done = done
        return self._on_device


@dataclass
class StaticBatches:
    """One run of a model, batch by batch."""

    model: Any
    """A causal language model of transformers."""
    accounting: Accounting
    clock: Clock
    cache_implementation: str | None
    most: int
    """Requests of a batch at most."""
    log: StepLog = field(default_factory=StepLog)
    """What the steps had to do, for requests that were not done; padding and those that were done are not work."""

    def answer(self, door: Door) -> Iterator[TokenEvent]:
        """Events of the requests that come in at the door, batch by batch; what comes meanwhile waits."""
        with ThreadPoolExecutor(1, thread_name_prefix="generate") as thread:
            while True:
                yield from door.admit()
                if not door.waiting:
                    if not door.rest():
                        return
                    continue
                batch = [door.waiting.popleft() for _ in range(min(self.most, len(door.waiting)))]
                with closing(self._steps(batch, thread)) as steps:
                    yield from self._events(batch, steps, door)

    def _events(self, batch: list[Request], steps: Iterator[Tokens], door: Door) -> Iterator[TokenEvent]:
        """Events of one batch; what is due meanwhile begins to wait."""
        sequences = {place: Sequence(request) for place, request in enumerate(batch)}
        for at_s, token_ids in steps:
            self._note(at_s, list(sequences.values()))
            running = len(sequences)
            for place, sequence in list(sequences.items()):
                token, request = token_ids[place], sequence.request
                sequence.output.append(token)
                is_last = len(sequence.output) == request.max_tokens or token in request.sampling.stop_token_ids
                if is_last:
                    del sequences[place]
                    door.ended(request, at_s, sequence.output)
                yield TokenEvent(request.index, at_s, 1, is_last, running, (token,))
            yield from door.admit()

    def _steps(self, batch: list[Request], thread: ThreadPoolExecutor) -> Generator[Tokens, None, None]:
        """The steps of one batch as they end."""
        steps = SimpleQueue[Tokens | None]()
        watch = _Watch(batch, self.clock, steps)
        running: Future[None] = thread.submit(self._generate, batch, watch)
        running.add_done_callback(lambda _: steps.put(None))
        try:
            yield from iter(steps.get, None)
            running.result()
        finally:
            watch.is_abandoned = True  # the step under way ends, and no other begins

    def _generate(self, batch: list[Request], watch: _Watch) -> None:
        prompts, mask = padded([request.prompt for request in batch])
        put = partial(torch.tensor, device=self.model.device)
        config = generation_config(batch[0].sampling)
        config.max_new_tokens = max(request.max_tokens for request in batch)
        config.cache_implementation = self.cache_implementation
        self.model.generate(
            put(prompts),
            attention_mask=put(mask),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([watch]),
        )

    def _note(self, at_s: float, sequences: list[Sequence]) -> None:
        """A step is done that gave each of these a token: its prompt's first, or one more."""
        rows = np.arange(len(sequences), dtype=np.int32)
        is_first = not sequences[0].output
        lengths = np.array([sequence.known_len for sequence in sequences], dtype=np.int32)
        starts, counts = (0 * lengths, lengths) if is_first else (lengths - 1, np.ones_like(lengths))
        decodes, chunks = (0, sequences) if is_first else (len(sequences), [])
        step = Step(rows, starts, counts, decodes, chunks, rows, sequences)
        self.log.note(at_s, self.accounting.of(step), StepShape.of(step))
