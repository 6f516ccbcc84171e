"""Conversations drawn from distributions, without end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenwatt.workloads.lengths import FixedLength, LognormalLength
from tokenwatt.workloads.prefix import Prefix
from tokenwatt.workloads.request import Request
from tokenwatt.workloads.script import Turn
from tokenwatt.workloads.streams import Purpose, stream, tokens
from tokenwatt.workloads.turns import Turns


@dataclass(frozen=True, slots=True)
class Drawn:
    """Lengths and tokens from seed and number alone."""

    seed: int
    vocabulary: int
    input: FixedLength | LognormalLength
    output: FixedLength | LognormalLength
    prefix: Prefix | None
    turns: Turns | None

    @property
    def conversations(self) -> int | None:
        """Without end."""
        return None

    @property
    def most_turns(self) -> int:
        """Turns of the longest conversation."""
        return 1 if self.turns is None else self.turns.count.most

    @property
    def longest(self) -> int:
        """Longest context in tokens: every turn as long as it can be."""
        prefix = 0 if self.prefix is None else self.prefix.tokens.longest
        later = 0 if self.turns is None else (self.most_turns - 1) * self.turns.input.longest
        return prefix + self.input.longest + later + self.most_turns * self.output.longest

    def turn(self, place: int, turn: int) -> Turn | None:
        """Turn number `turn` of conversation `place`; None if it has not so many."""
        return self._opening(place) if turn == 0 else self._later(place, turn)

    def stand_in(self, request: Request) -> np.ndarray:
        """Random tokens, as many as the answer has."""
        rng = stream(self.seed, request.conversation, request.turn, of=Purpose.STAND_IN)
        return tokens(rng, self.vocabulary, request.max_tokens)

    def fingerprint(self) -> bytes:
        """The first requests tell all."""
        return b""

    def _opening(self, place: int) -> Turn:
        # The order of the draws is that of published rows.
        rng = stream(self.seed, place)
        isl, osl = self.input.draw(rng), self.output.draw(rng)
        own = tokens(rng, self.vocabulary, isl)
        group = None if self.prefix is None else self.prefix.group(self.seed, place)
        if self.prefix is None or group is None:
            return Turn(own, osl)
        shared = self.prefix.text(self.seed, group, self.vocabulary)
        return Turn(np.concatenate([shared, own]), osl, shared_tokens=len(shared), salted_as=(group,))

    def _later(self, place: int, turn: int) -> Turn | None:
        if self.turns is None or turn >= self.turns.count.draw(stream(self.seed, place, of=Purpose.TURN_COUNT)):
            return None
        rng = stream(self.seed, place, turn, of=Purpose.LATER_TURN)
        isl, osl, think_s = self.turns.input.draw(rng), self.output.draw(rng), self.turns.think.draw(rng)
        return Turn(tokens(rng, self.vocabulary, isl), osl, think_s)
