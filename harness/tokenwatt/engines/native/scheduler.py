"""Who runs next: every decoding sequence gets one token, and prompts share what is left of the step's token budget.

Requests start in the order in which they came, and the one that came last gives way when pages run out: its pages are
freed, and it starts again later, its own output being part of its prompt (preemption by recompute). So the oldest
always goes on, and nobody starves.

Steps are launched before the tokens of the step before are on the host. All that a step changes is therefore known
when it is scheduled, but for the tokens themselves, which wait on the device, and for a stop token, which ends a
sequence one step late.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from tokenwatt.engines.native.pages import PagePool, page_digests, pages_for
from tokenwatt.engines.native.sequence import NO_ROW, Sequence
from tokenwatt.engines.native.table import Table
from tokenwatt.workloads import Request


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass over B sequences: first `decodes` of them with one new token each, then chunks of prompts."""

    rows: np.ndarray
    """int32 [B], their rows in the table."""
    starts: np.ndarray
    """int32 [B], tokens in the cache before the step."""
    counts: np.ndarray
    """int32 [B], new tokens."""
    decodes: int
    chunks: list[Sequence]
    """Sequences of the chunks, in order."""
    sampled: np.ndarray
    """int32 [S], which of the B sequences get an output token: those that decode, and those whose prompt ends."""
    sequences: list[Sequence]
    """The S sequences that get one."""

    @property
    def tokens(self) -> int:
        """New tokens of all sequences."""
        return int(self.counts.sum())


@dataclass(slots=True)
class PrefixHits:
    """How much of the prompts was in the cache already."""

    prompt_tokens: int = 0
    hit_tokens: int = 0

    @property
    def rate(self) -> float | None:
        """Share of prompt tokens that were not computed again; None before the first prompt."""
        return self.hit_tokens / self.prompt_tokens if self.prompt_tokens else None


@dataclass(slots=True)
class Scheduler:
    """Waiting and running sequences over one pool of pages."""

    table: Table
    pool: PagePool
    page_size: int
    max_step_tokens: int
    """The token budget; at least the table's rows."""
    caches_prefixes: bool = False
    enough_contexts: float = math.inf
    """No prompt is begun in a step whose chunks have contexts of so many tokens together: where a step makes keys and
    values of all of them, they must fit into memory."""
    hits: PrefixHits = field(default_factory=PrefixHits)
    _waiting: deque[Sequence] = field(default_factory=deque)
    _decoding: list[Sequence] = field(default_factory=list)
    """Running sequences in the order in which they started: first those whose prompt is computed ..."""
    _prefilling: list[Sequence] = field(default_factory=list)
    """... then, since prompts are computed in that order too, the others."""
    _decode_rows: np.ndarray = field(default_factory=lambda: _integers([]))
    """Rows of `_decoding`."""

    @property
    def num_running(self) -> int:
        """Sequences that hold pages."""
        return len(self._decoding) + len(self._prefilling)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for pages or a row."""
        return len(self._waiting)

    def add(self, request: Request) -> None:
        """Let a request wait for its turn. It must fit into the pool when it is alone."""
        self._waiting.append(Sequence(request))

    def schedule(self) -> Step | None:
        """The next step; None while there is nothing that can run."""
        self._grow()
        chunks = self._chunks(self.max_step_tokens - len(self._decoding))
        if not self._decoding and not chunks:
            return None
        step = self._mixed_step(chunks) if chunks else self._decode_step()
        self._advance(step)
        return step

    def finish(self, sequence: Sequence) -> None:
        """End a sequence before its budget does; steps that were launched with it go on, and their tokens are lost."""
        sequence.is_over = True
        if sequence.row != NO_ROW:
            self._leave(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def note_output(self, sequence: Sequence, token: int) -> None:
        """A token of a sequence is on the host."""
        sequence.output.append(token)
        if self.caches_prefixes and sequence.row != NO_ROW:
            # The newest token's own keys may not be computed yet, those before it are.
            self._publish(sequence, sequence.known_len - 1)

    def abandon(self) -> None:
        """Free everything that is in flight."""
        for sequence in [*self._decoding, *self._prefilling]:
            self._leave(sequence)
        self._waiting.clear()

    def _grow(self) -> None:
        """A page for each sequence whose next token begins one; the last to come give way if there is none."""
        rows, table = self._decode_rows, self.table
        is_full = table.computed.take(rows) >= table.num_pages.take(rows) * self.page_size
        for sequence in [self._decoding[place] for place in np.flatnonzero(is_full)]:
            while sequence.row != NO_ROW:  # it may give way itself
                pages = self.pool.take(1)
                if pages is not None:
                    sequence.pages += pages
                    table.append(sequence, pages)
                    break
                self._preempt()

    def _preempt(self) -> None:
        if self._prefilling:
            sequence = self._prefilling[-1]
        else:
            sequence = self._decoding[-1]
            sequence.promised = int(self.table.computed[sequence.row]) + 1 - sequence.prompt_len
        sequence.preemptions += 1
        self._leave(sequence)
        self._waiting.appendleft(sequence)

    def _chunks(self, budget: int) -> list[tuple[Sequence, int]]:
        """Sequences with as many prompt tokens as the budget has room for: those under way first, then new ones."""
        chunks, contexts = [], 0
        for sequence in self._prefilling:
            count = min(budget, self._missing(sequence))
            if count:
                chunks.append((sequence, count))
                budget -= count
                contexts += int(self.table.computed[sequence.row]) + count
        while budget and contexts < self.enough_contexts and (sequence := self._admit()) is not None:
            count = min(budget, self._missing(sequence))
            chunks.append((sequence, count))
            budget -= count
            contexts += int(self.table.computed[sequence.row]) + count
        return chunks

    def _missing(self, sequence: Sequence) -> int:
        return sequence.known_len - int(self.table.computed[sequence.row])

    def _admit(self) -> Sequence | None:
        """Start the first that waits, if there is a row, all of its tokens are on the host, and pages hold them.

        A page is left for each running sequence that will need one more, so that none is taken back at once.
        """
        if not self._waiting or not self.table.has_room:
            return None
        sequence = self._waiting[0]
        if len(sequence.output) < sequence.promised:
            return None
        shared = self._shared_pages(sequence)
        fresh = pages_for(sequence.known_len, self.page_size) - len(shared)
        pages = self.pool.take(fresh) if fresh + self._growing() <= self.pool.free_pages else None
        if pages is None:
            self.pool.release(shared)
            return None
        self._waiting.popleft()
        sequence.pages = shared + pages
        sequence.published = len(shared)
        self.table.seat(sequence, len(shared) * self.page_size)
        if self.caches_prefixes and not sequence.preemptions:
            self.hits.prompt_tokens += sequence.prompt_len
            self.hits.hit_tokens += len(shared) * self.page_size
        self._prefilling.append(sequence)
        return sequence

    def _growing(self) -> int:
        """Running sequences whose pages do not hold all that they may become. The last token is never stored."""
        rows = np.concatenate([self._decode_rows, _integers([sequence.row for sequence in self._prefilling])])
        has_page_to_come = self.table.num_pages.take(rows) * self.page_size < self.table.end.take(rows) - 1
        return int(np.count_nonzero(has_page_to_come))

    def _shared_pages(self, sequence: Sequence) -> list[int]:
        """Pages of its tokens that are in the cache; its last token is computed in any case, for the one after it."""
        if not self.caches_prefixes:
            return []
        whole = (sequence.known_len - 1) // self.page_size
        self._digest(sequence, whole)
        return self.pool.share(sequence.digests[:whole])

    def _digest(self, sequence: Sequence, whole: int) -> None:
        """Digests of the first `whole` pages, of which all tokens are on the host."""
        done = len(sequence.digests)
        if whole > done:
            tokens = sequence.tokens(done * self.page_size, whole * self.page_size)
            before = sequence.digests[-1] if done else b""
            sequence.digests += page_digests(tokens, self.page_size, before)

    def _publish(self, sequence: Sequence, computed: int) -> None:
        """Let others share the whole pages among the first `computed` tokens."""
        whole = computed // self.page_size
        if whole <= sequence.published:
            return
        self._digest(sequence, whole)
        for place in range(sequence.published, whole):
            self.pool.publish(sequence.pages[place], sequence.digests[place])
        sequence.published = whole

    def _decode_step(self) -> Step:
        rows = self._decode_rows
        count = len(rows)
        return Step(rows, self.table.computed.take(rows), _ones(count), count, [], _count_up(count), [*self._decoding])

    def _mixed_step(self, chunks: list[tuple[Sequence, int]]) -> Step:
        decodes = len(self._decoding)
        rows = np.concatenate([self._decode_rows, _integers([sequence.row for sequence, _ in chunks])])
        ends = [place for place, (sequence, count) in enumerate(chunks) if count == self._missing(sequence)]
        return Step(
            rows=rows,
            starts=self.table.computed.take(rows),
            counts=np.concatenate([_ones(decodes), _integers([count for _, count in chunks])]),
            decodes=decodes,
            chunks=[sequence for sequence, _ in chunks],
            sampled=np.concatenate([_count_up(decodes), _integers(ends) + decodes], dtype=np.int32),
            sequences=self._decoding + [chunks[place][0] for place in ends],
        )

    def _advance(self, step: Step) -> None:
        """Count the step as done; sequences whose budget is spent leave, since later steps come after it on the GPU."""
        table = self.table
        table.computed[step.rows] = step.starts + step.counts
        if self.caches_prefixes:
            for sequence in step.chunks:
                self._publish(sequence, int(table.computed[sequence.row]))
        begun = step.sequences[step.decodes :]
        if begun:
            self._prefilling = self._prefilling[len(begun) :]
            self._decoding += begun
            self._decode_rows = np.concatenate([self._decode_rows, step.rows[step.sampled[step.decodes :]]])
        rows = step.rows.take(step.sampled)
        for place in np.flatnonzero(table.computed.take(rows) + 1 >= table.end.take(rows)):
            self._leave(step.sequences[place])

    def _leave(self, sequence: Sequence) -> None:
        """Take pages and row of a running sequence."""
        if sequence in self._prefilling:
            self._prefilling.remove(sequence)
        else:
            place = self._decoding.index(sequence)
            del self._decoding[place]
            self._decode_rows = np.concatenate([self._decode_rows[:place], self._decode_rows[place + 1 :]])
        self.pool.release(sequence.pages)
        sequence.pages = []
        self.table.free(sequence)


def _integers(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def _ones(count: int) -> np.ndarray:
    return np.ones(count, dtype=np.int32)


def _count_up(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int32)
