"""Who runs next: new requests are prefilled as soon as there is a slot and memory, else everyone decodes a token."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tokenwatt.engines.native.kv_cache import KvCache, pages_for
from tokenwatt.workloads import Request

MAX_PREFILL_TOKENS = 16384
"""Prompt tokens of one prefill step: enough to fill a GPU, small enough for its activations."""


@dataclass(slots=True, eq=False)
class Sequence:
    """A request that runs: its pages, and how many tokens it has produced."""

    request: Request
    pages: np.ndarray
    """int32 [max_pages]: its pages, then zeros up to the longest context that may come."""
    generated: int = 0
    last_token: int = -1

    @property
    def context_len(self) -> int:
        """Tokens in the cache once the token that is about to be computed is stored."""
        return len(self.request.prompt) + self.generated

    @property
    def is_finished(self) -> bool:
        """Whether the output budget is spent."""
        return self.generated >= self.request.max_tokens


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass: either whole prompts, or one token of every running sequence."""

    is_prefill: bool
    sequences: list[Sequence]


class Scheduler:
    """Closed loop of `concurrency` slots over one KV cache. Pages for a whole request are reserved when it starts.

    `max_pages` is the width of every block table whatever a step holds, so that the decode kernel, whose split of the
    context follows from the width, is not compiled anew as contexts grow.
    """

    def __init__(self, requests: Iterator[Request], concurrency: int, cache: KvCache, max_pages: int) -> None:
        self._requests = requests
        self._concurrency = concurrency
        self._cache = cache
        self._max_pages = max_pages
        self._waiting: deque[Request] = deque()
        self._running: list[Sequence] = []

    @property
    def num_running(self) -> int:
        """Requests that hold pages."""
        return len(self._running)

    def schedule(self) -> Step | None:
        """The next step; None when nothing is left to do."""
        self._pull()
        started = self._admit()
        if started:
            self._running += started
            return Step(is_prefill=True, sequences=started)
        return Step(is_prefill=False, sequences=list(self._running)) if self._running else None

    def retire(self) -> None:
        """Drop finished sequences and free their pages; their slots are refilled at once, which is when we send."""
        for sequence in self._running:
            if sequence.is_finished:
                self._release(sequence)
        self._running = [sequence for sequence in self._running if not sequence.is_finished]
        self._pull()

    def abandon(self) -> None:
        """Free the pages of everything in flight."""
        for sequence in self._running:
            self._release(sequence)
        self._running.clear()
        self._waiting.clear()

    def _release(self, sequence: Sequence) -> None:
        count = pages_for(len(sequence.request.prompt) + sequence.request.max_tokens)
        self._cache.release(sequence.pages[:count].tolist())

    def _pull(self) -> None:
        """Send requests until `concurrency` are in flight."""
        while len(self._running) + len(self._waiting) < self._concurrency:
            request = next(self._requests, None)
            if request is None:
                return
            self._waiting.append(request)

    def _admit(self) -> list[Sequence]:
        """Start waiting requests, in order, while memory and the token budget last."""
        started: list[Sequence] = []
        budget = MAX_PREFILL_TOKENS
        while self._waiting and (not started or len(self._waiting[0].prompt) <= budget):
            request = self._waiting[0]
            pages = self._cache.allocate(len(request.prompt) + request.max_tokens)
            if pages is None:
                break
            self._waiting.popleft()
            row = np.zeros(self._max_pages, dtype=np.int32)
            row[: len(pages)] = pages
            started.append(Sequence(request, row))
            budget -= len(request.prompt)
        return started
