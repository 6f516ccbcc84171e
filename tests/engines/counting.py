"""A runner that counts instead of computing, and a scheduler that is watched: a loop without a model.

What the cache keeps of a token depends on that token and on what it keeps of the one before, as in a transformer, so a
page that was lost, shared wrongly or written twice gives another answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from tests.factories import closed

from tokenwatt.engines.native.accounting import Accounting
from tokenwatt.engines.native.batch import Stage, prepare
from tokenwatt.engines.native.options import NativeOptions
from tokenwatt.engines.native.pages import pages_for
from tokenwatt.engines.native.runner import Launched, Runner
from tokenwatt.engines.native.scheduler import Scheduler, Step
from tokenwatt.engines.native.sequence import Sequence
from tokenwatt.engines.native.serving import Loaded, Serving
from tokenwatt.engines.native.table import Table
from tokenwatt.model_config import load_architecture
from tokenwatt.workloads import Request

VOCABULARY = 101


@dataclass(frozen=True)
class Workload:
    """Requests, and the room in which they are played."""

    requests: list[Request]
    rows: int
    page_size: int
    num_pages: int
    max_step_tokens: int
    prefix_caching: bool
    overlap: bool

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(request.prompt) + request.max_tokens for request in self.requests)


def kept(before: int, token: int) -> int:
    """What the cache keeps of a token behind another one."""
    return (before * 69_069 + token + 1) % 2**31


def answer(request: Request) -> tuple[list[int], np.ndarray]:
    """The output of a request, and what the cache keeps of its tokens, one by one."""
    entries = [0]
    for token in request.prompt.tolist():
        entries.append(kept(entries[-1], token))
    output = []
    while len(output) < request.max_tokens:
        output.append(entries[-1] % VOCABULARY)
        entries.append(kept(entries[-1], output[-1]))
        if output[-1] in request.sampling.stop_token_ids:
            break
    return output, np.array(entries[1:])


class CountingRunner:
    """Launches steps as `Runner` does, on the same batches."""

    def __init__(self, workload: Workload, table: Table) -> None:
        self._table = table
        self._page_size = workload.page_size
        self._stage = Stage(table.rows, workload.max_step_tokens, table.pages.shape[1], torch.device("cpu"))
        self._cache = np.full(workload.num_pages * workload.page_size, -1)
        self._newest = np.zeros(table.rows, dtype=np.int64)
        self._expected = {request.index: answer(request)[1] for request in workload.requests}

    def launch(self, step: Step) -> Launched:
        """The step's tokens, after a look at all that its sequences have in the cache."""
        batch = prepare(step, self._table, self._page_size, self._stage)
        decoding = self._newest[batch.rows[: batch.decodes].numpy()]
        tokens = [*decoding.tolist(), *batch.prompt_tokens.tolist()]
        positions, slots, tables = batch.positions.tolist(), batch.slots.tolist(), batch.block_table.numpy()
        assert len(set(slots)) == len(slots)
        for place, (first, end) in enumerate(pairwise(batch.cu_seqlens.tolist())):
            for token in range(first, end):
                position = positions[token]
                before = self._entries(tables[place], position - 1, position)[0] if position else 0
                assert slots[token] == self._slots(tables[place], position, position + 1)[0]
                self._cache[slots[token]] = kept(int(before), tokens[token])
        contexts = batch.context_lens.tolist()
        for sequence, pages, context in zip(sequences_of(step), tables, contexts, strict=True):
            assert np.array_equal(self._entries(pages, 0, context), self._expected[sequence.request.index][:context])
        # What predicts a token is the newest of its sequence.
        last, sampled = batch.last.tolist(), batch.sampled.tolist()
        assert [positions[token] for token in last] == [contexts[place] - 1 for place in sampled]
        output = self._cache[[slots[token] for token in last]] % VOCABULARY
        self._newest[batch.rows.numpy()[sampled]] = output
        return Launched(step, torch.from_numpy(output), None)

    def _slots(self, pages: np.ndarray, start: int, stop: int) -> np.ndarray:
        places = np.arange(start, stop)
        return pages[places // self._page_size] * self._page_size + places % self._page_size

    def _entries(self, pages: np.ndarray, start: int, stop: int) -> np.ndarray:
        return self._cache[self._slots(pages, start, stop)]


def sequences_of(step: Step) -> list[Sequence]:
    """All B of them, in order."""
    return step.sequences[: step.decodes] + step.chunks


@dataclass(slots=True)
class WatchedScheduler(Scheduler):
    """Checks after each step what must hold whatever the workload is."""

    steps: int = 0
    computed_until: dict[tuple[int, int], int] = field(default_factory=dict)
    """(request, preemptions) -> its tokens of which keys and values were computed."""
    started: list[int] = field(default_factory=list)
    """Requests in the order in which they started first."""
    oldest: tuple[int, int] = (-1, 0)
    """Request and preemptions of the one that came first of all that run."""

    @property
    def resumed(self) -> int:
        """How often a sequence started again."""
        return sum(bool(preemptions) for _, preemptions in self.computed_until)

    def schedule(self) -> Step | None:
        """The next step, looked at."""
        waiting = [*self._waiting]
        step = Scheduler.schedule(self)
        if step is None:
            # Nothing runs. What waits had to give way, and its tokens are not on the host yet.
            assert not self.num_running
            assert not waiting or len(waiting[0].output) < waiting[0].promised
            return None
        self.steps += 1
        self._check_limits(step)
        self._check_order(step)
        self._check_pages()
        return step

    def _check_limits(self, step: Step) -> None:
        assert 1 <= step.tokens <= self.max_step_tokens
        assert len(set(step.rows.tolist())) == len(step.rows) <= self.table.rows
        assert len(step.rows) == len(sequences_of(step))
        assert step.counts[: step.decodes].tolist() == [1] * step.decodes
        assert step.counts.min() >= 1

    def _check_order(self, step: Step) -> None:
        for sequence, start, count in zip(sequences_of(step), step.starts.tolist(), step.counts.tolist(), strict=True):
            key = sequence.request.index, sequence.preemptions
            if key not in self.computed_until:
                assert start % self.page_size == 0
                assert start == 0 or self.caches_prefixes
                if not sequence.preemptions:
                    self.started.append(sequence.request.index)
            else:
                assert start == self.computed_until[key]
            self.computed_until[key] = start + count
        order = [sequence.request.index for sequence in sequences_of(step)]
        assert order == sorted(order)
        assert self.started == sorted(self.started)
        # All that run came before all that wait.
        order = [sequence.request.index for sequence in [*self._decoding, *self._prefilling, *self._waiting]]
        assert order == sorted(order)
        # Whoever is the oldest stays until it is done.
        oldest = sequences_of(step)[0]
        if oldest.request.index == self.oldest[0]:
            assert oldest.preemptions == self.oldest[1]
        self.oldest = oldest.request.index, oldest.preemptions

    def _check_pages(self) -> None:
        holders: dict[int, list[tuple[Sequence, int]]] = {}
        for sequence in [*self._decoding, *self._prefilling]:
            assert sequence.pages == self.table.pages[sequence.row, : len(sequence.pages)].tolist()
            assert len(set(sequence.pages)) == len(sequence.pages) == self.table.num_pages[sequence.row]
            for place, page in enumerate(sequence.pages):
                holders.setdefault(page, []).append((sequence, place))
        for page in range(self.pool.num_pages):
            held = holders.get(page, [])
            assert self.pool.holders(page) == len(held)
            if len(held) > 1:
                assert self.caches_prefixes
                assert len({sequence.digests[place] for sequence, place in held}) == 1
        assert self.pool.free_pages == self.pool.num_pages - len(holders)


@dataclass(frozen=True)
class Played:
    """What came of a workload."""

    scheduler: WatchedScheduler
    table: Table
    outputs: dict[int, list[int]]
    """Of each request, in the order in which they were answered."""


def play(workload: Workload) -> Played:
    """Serve a workload as the engine does, with a runner that counts and a scheduler that is watched."""
    table = Table(workload.rows, pages_for(workload.longest, workload.page_size))
    runner = CountingRunner(workload, table)
    options = NativeOptions.model_construct(
        page_size=workload.page_size, prefix_caching=workload.prefix_caching, overlap=workload.overlap
    )
    model = load_architecture("SmolLM2-135M")
    loaded = Loaded(
        model, options, cast("Runner", runner), table,
        Accounting(model, "float32", "none", "float32", workload.page_size),
        workload.num_pages, workload.max_step_tokens, workload.longest,
    )  # fmt: skip
    serving = Serving(loaded)
    scheduler = serving.scheduler = WatchedScheduler(
        table, serving.scheduler.pool, workload.page_size, workload.max_step_tokens, workload.prefix_caching
    )
    outputs: dict[int, list[int]] = {}
    for event in serving.answer(closed(workload.requests, workload.rows), clock=lambda: 0.0):
        assert event.failure is None
        outputs.setdefault(event.request_index, []).extend(event.token_ids)
    return Played(scheduler, table, outputs)
