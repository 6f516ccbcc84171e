"""A workload file: one declaration, from which conversations come by number."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from tokenwatt.errors import UserError
from tokenwatt.spec import Spec
from tokenwatt.workloads.drawn import Drawn
from tokenwatt.workloads.durations import FixedTime
from tokenwatt.workloads.lengths import Length
from tokenwatt.workloads.prefix import Prefix
from tokenwatt.workloads.request import GREEDY, FollowUp, Request, Sampling
from tokenwatt.workloads.script import Script, Selection, Turn
from tokenwatt.workloads.sharegpt import Recorded, ShareGPT
from tokenwatt.workloads.streams import Purpose, draw_seed, stream, tokens
from tokenwatt.workloads.trace import Replayed, Trace
from tokenwatt.workloads.turns import Turns

HASHED_REQUESTS = 256
SALT_TOKENS = 8
"""Tokens that a salt replaces: 8 ids below 32000 do not meet by chance, and all that follows has another prefix."""


class Workload(Spec):
    """What is asked: lengths drawn from distributions, a trace, or recorded conversations. It knows no GPU or engine.

    It is a `tokenwatt.load.Source`, can be pickled, and gives any conversation by its number.
    """

    name: str
    """Name in the results."""
    description: str
    """Who asks this, and where the lengths come from."""
    input: Length | None = None
    """Prompt length (isl), of the first turn where there are more; a `[prefix]` comes on top."""
    output: Length | None = None
    """Output budget (osl) of each turn."""
    vocabulary: int = Field(default=32000, gt=0, lt=2**31)
    """Token ids are drawn evenly below this; a model needs at least as many."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of lengths, tokens and draws."""
    sampling: Sampling = GREEDY
    """How output tokens are chosen."""
    salt: bool = True
    """Whether a run changes the first tokens of its prompts, so that no cache knows them from the run before."""
    prefix: Prefix | None = None
    """Text that many prompts begin with."""
    turns: Turns | None = None
    """How conversations go on; without it they have one turn."""
    trace: Trace | None = None
    """Lengths and times from a trace, in place of `[input]` and `[output]`."""
    sharegpt: ShareGPT | None = None
    """Recorded conversations, in place of `[input]` and `[output]`."""
    _salt: int | None = PrivateAttr(default=None)
    """What the run gave."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        is_drawn = self.input is not None and self.output is not None
        has_lengths = self.input is not None or self.output is not None
        files = [name for name in ("trace", "sharegpt") if getattr(self, name) is not None]
        if has_lengths + len(files) != 1 or has_lengths != is_drawn:
            raise ValueError("needs [input] and [output], or [trace], or [sharegpt], and only one of these three")
        added = [name for name in ("prefix", "turns") if getattr(self, name) is not None]
        if files and added:
            raise ValueError(f"[{added[0]}] goes with [input] and [output], not with [{files[0]}]")
        return self

    def found_from(self, folder: Path) -> Self:
        """The same with the paths of its files from `folder`."""
        tables = {name: table for name in ("trace", "sharegpt") if (table := getattr(self, name)) is not None}
        return self.model_copy(
            update={name: table.model_copy(update={"path": str(folder / table.path)}) for name, table in tables.items()}
        )

    def salted(self, salt: int) -> Self:
        """The same with the salt of a run (from 0), if it is to be salted.

        Salted are the first tokens of each conversation; those that share their beginning still do within the run.
        """
        return self._with_salt(salt if self.salt else None)

    @property
    def has_follow_ups(self) -> bool:
        """Whether conversations have further turns."""
        return self.script.most_turns > 1

    def opening(self, place: int) -> Request | None:
        """First request of conversation `place`, the same on every machine; None if there are not so many.

        Raises:
            UserError: a file that it is made from is bad.
        """
        turn = self.script.turn(place, 0)
        if turn is None:
            return None
        return self._request(place, 0, self._salted_text(place, turn), turn, turn.shared_tokens)

    def follow_up(self, request: Request, output: Sequence[int]) -> FollowUp | None:
        """The turn after `request`, whose answer was `output` (token ids); None if that was the last.

        Where the engine does not say its output, other tokens stand in, as many as the budget of the answer, so that
        lengths are right: those recorded, or random ones, which no prefix cache of the server can know.
        """
        place, number = request.conversation, request.turn + 1
        turn = self.script.turn(place, number)
        if turn is None:
            return None
        answer = np.asarray(output, np.int32) if len(output) else self.script.stand_in(request)
        said = np.concatenate([request.prompt, answer])
        asked = self._request(place, number, np.concatenate([said, turn.text]), turn, len(said))
        answers = (*request.answers, (len(request.prompt), len(said)))
        return FollowUp(replace(asked, answers=answers), turn.think_s)

    def request(self, index: int) -> Request:
        """First request of conversation `index`, which there must be."""
        request = self.opening(index)
        if request is None:
            raise IndexError(f"workload {self.name!r} has {self.script.conversations} conversations, not one {index}")
        return request

    def requests(self) -> Iterator[Request]:
        """All requests, one conversation after the other: without end, but for traces and recorded conversations.

        Later turns have a stand-in for each answer.
        """
        return (request for request, _ in self._asked())

    def timetable(self) -> list[float]:
        """When each conversation of a trace begins, in seconds from its `start_s`, for `Load.replay`.

        Raises:
            UserError: it has no times.
        """
        if not isinstance(self.script, Replayed):
            raise UserError(f"workload {self.name!r} has no timetable to replay: only one with [trace] has")
        return self.script.at_s.tolist()

    @property
    def thinks(self) -> bool:
        """Whether people may take time between an answer and their next turn."""
        return self.has_follow_ups and any(
            table is not None and table.think != FixedTime(time_s=0.0) for table in (self.turns, self.sharegpt)
        )

    @property
    def selection(self) -> Selection | None:
        """What was taken from its file, and what was left out; None where nothing is read."""
        return self.script.selection if isinstance(self.script, Replayed | Recorded) else None

    def unique_share(self) -> float:
        """Share of the prompt tokens of the first 256 requests that no request before may have had, from 0 to 1."""
        requests = list(itertools.islice(self.requests(), HASHED_REQUESTS))
        return 1 - sum(request.shared_tokens for request in requests) / sum(len(request.prompt) for request in requests)

    def sha256(self) -> str:
        """Hash over the bytes of the first 256 requests (budgets and token ids, little-endian int32), then sampling.

        Sampling adds its settings that are no defaults, as JSON, so greedy workloads hash as if there were none. A
        later turn adds its think time before its tokens (little-endian float64), a file the times, lengths and blocks,
        or texts, of all that was taken from it. A salt changes nothing.
        """
        digest = hashlib.sha256()
        for request, think_s in itertools.islice(self._with_salt(None)._asked(), HASHED_REQUESTS):
            header = np.array([request.max_tokens, len(request.prompt)], dtype="<i4")
            if request.turn > 0:
                digest.update(np.array([think_s], "<f8").tobytes())
            digest.update(header.tobytes() + request.prompt.astype("<i4").tobytes())
        if self.sampling != GREEDY:
            digest.update(self.sampling.model_dump_json(exclude_defaults=True).encode())
        digest.update(self.script.fingerprint())
        return digest.hexdigest()

    def longest(self) -> int:
        """Longest context in tokens that a request can reach, all turns counted."""
        return self.script.longest

    @cached_property
    def script(self) -> Script:
        """The turns of its conversations; reads the file that it is made from."""
        if self.trace is not None:
            return self.trace.read(self.seed, self.vocabulary)
        if self.sharegpt is not None:
            return self._within_vocabulary(self.sharegpt.read(self.seed))
        assert self.input is not None
        assert self.output is not None
        return Drawn(self.seed, self.vocabulary, self.input, self.output, self.prefix, self.turns)

    def _within_vocabulary(self, recorded: Recorded) -> Recorded:
        largest = max(int(text.max(initial=0)) for texts in recorded.texts for text in texts)
        if largest >= self.vocabulary:
            raise UserError(f"workload {self.name!r}: its tokenizer gives token id {largest}; set vocabulary above it")
        return recorded

    def _asked(self) -> Iterator[tuple[Request, float]]:
        """All requests with their think times."""
        for place in itertools.count():
            request = self.opening(place)
            if request is None:
                return
            yield request, 0.0
            while (follow_up := self.follow_up(request, ())) is not None:
                request = follow_up.request
                yield follow_up

    def _request(self, place: int, number: int, prompt: np.ndarray, turn: Turn, shared_tokens: int) -> Request:
        index = place * self.script.most_turns + number
        seed = draw_seed(self.seed, index)
        return Request(index, prompt, turn.max_tokens, self.sampling, seed, place, number, shared_tokens)

    def _with_salt(self, salt: int | None) -> Self:
        other = self.model_copy()
        other._salt = salt
        return other

    def _salted_text(self, place: int, turn: Turn) -> np.ndarray:
        if self._salt is None:
            return turn.text
        # The number says whether a place or a group follows, so that the two never meet.
        key = (1, *turn.salted_as) if turn.salted_as else (0, place)
        salt = tokens(stream(self.seed, self._salt, *key, of=Purpose.SALT), self.vocabulary, SALT_TOKENS)
        count = min(SALT_TOKENS, len(turn.text))
        return np.concatenate([salt[:count], turn.text[count:]])
