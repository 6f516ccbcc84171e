"""What is asked: conversations by number, of which most have one turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tokenwatt.workloads import FollowUp, Request


class Source(Protocol):
    """Conversations, each the same whenever it is asked for; it can be pickled."""

    @property
    def has_follow_ups(self) -> bool:
        """Whether `follow_up` ever answers with a request, for which an engine must know what it has answered."""
        ...

    def opening(self, place: int) -> Request | None:
        """First request of conversation `place` (0, 1, 2 ...); None if there are not so many."""
        ...

    def follow_up(self, request: Request, output: Sequence[int]) -> FollowUp | None:
        """The turn after `request`, whose answer was `output` (token ids; empty where the engine does not say).

        None if that was the last."""
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """These requests and no others, one turn each."""

    requests: tuple[Request, ...]

    @property
    def has_follow_ups(self) -> bool:
        """No: one turn each."""
        return False

    def opening(self, place: int) -> Request | None:
        """The request at `place` of the list."""
        return self.requests[place] if place < len(self.requests) else None

    def follow_up(self, request: Request, output: Sequence[int]) -> FollowUp | None:
        """None: nobody asks twice."""
        return None
