"""Table `[trace]`: requests with the lengths and the times of a recorded trace."""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from tokenwatt.errors import UserError
from tokenwatt.spec import Spec
from tokenwatt.workloads.lengths import TokenCount
from tokenwatt.workloads.request import Request
from tokenwatt.workloads.script import Selection, Turn
from tokenwatt.workloads.streams import Purpose, stream, tokens
from tokenwatt.workloads.trace_files import Format, Row, read_rows


class Trace(Spec):
    """A file of somebody's traffic, and which part of it is asked."""

    format: Format
    """Whose file it is."""
    path: str
    """The file; from the folder of the workload where it is no whole path."""
    start_s: float = Field(default=0.0, ge=0)
    """Where to begin, seconds after the first row; times count from there."""
    duration_s: float | None = Field(default=None, gt=0)
    """How much of it, seconds; None until the end. Rows beyond it are not read."""
    limit: int | None = Field(default=None, gt=0)
    """Most requests to take; rows beyond them are not read."""
    max_input: TokenCount | None = None
    """Longest prompt in tokens."""
    max_output: TokenCount | None = None
    """Longest output in tokens."""
    too_long: Literal["drop", "clip"] = "drop"
    """Whether a longer one is left out, or asked as long as it may be; either is counted."""
    block_tokens: int = Field(default=512, gt=0, le=2**16)
    """Tokens that an entry of `hash_ids` stands for; format `mooncake` alone."""

    def read(self, seed: int, vocabulary: int) -> Replayed:
        """The part of the file that is asked.

        Raises:
            UserError: a row is bad, or none is left.
        """
        picked = _Picked(self)
        columns = _columns(picked.rows(read_rows(Path(self.path), self.format, self.block_tokens)), self.start_s)
        selection = picked.selection(len(columns[0]))
        if not selection.kept:
            raise UserError(f"{self.path}: no row is left to ask: {selection}")
        return Replayed(seed, vocabulary, self.block_tokens, selection, *columns)


@dataclass(slots=True)
class _Picked:
    """Takes rows, and counts those that it does not take."""

    trace: Trace
    left_out: Counter[str] = field(default_factory=Counter, init=False)
    clipped: int = field(default=0, init=False)

    def rows(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Rows to ask, up to the end of the part."""
        end_s = np.inf if self.trace.duration_s is None else self.trace.start_s + self.trace.duration_s
        within = itertools.takewhile(lambda row: row.at_s < end_s, rows)
        return itertools.islice(filter(None, map(self._pick, within)), self.trace.limit)

    def selection(self, kept: int) -> Selection:
        """What was taken of the rows that were read."""
        return Selection("rows", kept, dict(self.left_out), self.clipped)

    def _pick(self, row: Row) -> Row | None:
        reason = self._reason_against(row)
        if reason is not None:
            self.left_out[reason] += 1
            return None
        clipped = self._clip(row)
        self.clipped += clipped != row
        return clipped

    def _reason_against(self, row: Row) -> str | None:
        trace = self.trace
        if row.at_s < trace.start_s:
            return "before start_s"
        if row.isl == 0:
            return "no prompt"
        if row.osl == 0:
            return "no output"
        if trace.too_long == "drop":
            if trace.max_input is not None and row.isl > trace.max_input:
                return "over max_input"
            if trace.max_output is not None and row.osl > trace.max_output:
                return "over max_output"
        return None

    def _clip(self, row: Row) -> Row:
        isl, osl = min(row.isl, self.trace.max_input or row.isl), min(row.osl, self.trace.max_output or row.osl)
        return row._replace(isl=isl, osl=osl, blocks=row.blocks[: -(-isl // self.trace.block_tokens)])


def _columns(rows: Iterable[Row], start_s: float) -> tuple[np.ndarray, ...]:
    """Lines, times, lengths and blocks of the rows as the columns of `Replayed`; a week of rows fits no list."""
    lines, isl, osl, blocks, ends = (array("q") for _ in range(5))
    at_s = array("d")
    ends.append(0)
    for row in rows:
        lines.append(row.line)
        at_s.append(row.at_s - start_s)
        isl.append(row.isl)
        osl.append(row.osl)
        blocks.extend(row.blocks)
        ends.append(len(blocks))
    return tuple(np.array(column) for column in (lines, at_s, isl, osl, blocks, ends))


@dataclass(frozen=True, eq=False)
class Replayed:
    """Rows of a trace as conversations of one turn. (Not slotted: what is known of its blocks is worked out once.)"""

    seed: int
    vocabulary: int
    block_tokens: int
    selection: Selection
    lines: np.ndarray
    """Line of each row in its file, int64 [rows]; its tokens hang on it, so that no filter moves them."""
    at_s: np.ndarray
    """Seconds since `start_s`, float64 [rows]."""
    isl: np.ndarray
    """Prompt tokens, int64 [rows]."""
    osl: np.ndarray
    """Output budgets, int64 [rows]."""
    blocks: np.ndarray
    """Numbers of the blocks of all rows, one row after the other, int64 [blocks]."""
    ends: np.ndarray
    """Where the blocks of each row begin, and where the last ones end, int64 [rows + 1]."""

    @property
    def conversations(self) -> int | None:
        """One for each row."""
        return len(self.isl)

    @property
    def most_turns(self) -> int:
        """Rows are not linked."""
        return 1

    @property
    def longest(self) -> int:
        """Longest context in tokens of a row."""
        return int((self.isl + self.osl).max())

    def turn(self, place: int, turn: int) -> Turn | None:
        """The prompt of row `place`, from its blocks where it has them."""
        if turn > 0 or not 0 <= place < len(self.isl):
            return None
        isl, osl = int(self.isl[place]), int(self.osl[place])
        blocks = self._blocks(place)
        if len(blocks) == 0:
            return Turn(tokens(stream(self.seed, int(self.lines[place])), self.vocabulary, isl), osl)
        text = np.concatenate([self._block(block) for block in blocks])[:isl]
        shared = min(isl, int(self._known_blocks[place]) * self.block_tokens)
        return Turn(text, osl, shared_tokens=shared, salted_as=(blocks[0],))

    def stand_in(self, request: Request) -> np.ndarray:
        """Nobody asks: no row has a second turn."""
        rng = stream(self.seed, request.conversation, request.turn, of=Purpose.STAND_IN)
        return tokens(rng, self.vocabulary, request.max_tokens)

    def fingerprint(self) -> bytes:
        """Times, lengths and blocks of all rows, little-endian."""
        columns = ((self.at_s, "<f8"), (self.isl, "<i4"), (self.osl, "<i4"), (self.blocks, "<i8"))
        return b"".join(column.astype(kind).tobytes() for column, kind in columns)

    def _blocks(self, place: int) -> list[int]:
        return self.blocks[self.ends[place] : self.ends[place + 1]].tolist()

    def _block(self, block: int) -> np.ndarray:
        return tokens(stream(self.seed, block, of=Purpose.BLOCK), self.vocabulary, self.block_tokens)

    @cached_property
    def _known_blocks(self) -> np.ndarray:
        """How many leading blocks of each row an earlier row had, int64 [rows]."""
        seen: set[int] = set()
        known = np.zeros(len(self.isl), np.int64)
        for place in range(len(self.isl)):
            blocks = self._blocks(place)
            known[place] = sum(1 for _ in itertools.takewhile(seen.__contains__, blocks))
            seen.update(blocks)
        return known
