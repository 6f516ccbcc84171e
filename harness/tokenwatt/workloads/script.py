"""What every kind of workload can say: the turns of a conversation, by number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from tokenwatt.workloads.request import Request


class Turn(NamedTuple):
    """What a turn adds to its conversation."""

    text: np.ndarray
    """New token ids, int32 [n]; of the first turn the whole prompt."""
    max_tokens: int
    """Output budget."""
    think_s: float = 0.0
    """How long after the last answer it is asked."""
    shared_tokens: int = 0
    """Leading tokens of `text` that another conversation may have had before."""
    salted_as: tuple[int, ...] = ()
    """Conversations of a first turn that must be salted alike, because they share their beginning, say the same here;
    () for one that shares nothing."""


class Script(Protocol):
    """Conversations by number, each the same whenever it is asked for; it can be pickled."""

    @property
    def conversations(self) -> int | None:
        """How many there are; None without end."""
        ...

    @property
    def most_turns(self) -> int:
        """Turns of the longest conversation."""
        ...

    @property
    def longest(self) -> int:
        """Longest context in tokens that a request can reach."""
        ...

    def turn(self, place: int, turn: int) -> Turn | None:
        """Turn number `turn` of conversation `place`; None if there is none."""
        ...

    def stand_in(self, request: Request) -> np.ndarray:
        """Token ids in place of an answer that the engine does not say, int32 [max_tokens]."""
        ...

    def fingerprint(self) -> bytes:
        """What tells it from another beyond its first requests; empty if they tell all."""
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """What was taken from a file."""

    unit: str
    """What the file has, in the plural: rows, conversations."""
    kept: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many were not taken, by reason."""
    clipped: int = 0
    """How many of the kept were made shorter."""

    def __str__(self) -> str:
        """One line for people.

        >>> str(Selection("rows", 7, {"no output": 2, "over max_input": 1}, clipped=3))
        '7 of 10 rows (2 left out: no output; 1 left out: over max_input; 3 clipped)'
        """
        notes = [f"{count} left out: {reason}" for reason, count in self.left_out.items()]
        notes += [f"{self.clipped} clipped"] if self.clipped else []
        return f"{self.kept} of {self.kept + sum(self.left_out.values())} {self.unit}" + (
            f" ({'; '.join(notes)})" if notes else ""
        )
