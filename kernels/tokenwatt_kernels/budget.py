"""A time after which nothing new is begun, so that a long command ends between two of its parts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Budget:
    """Counts from when it is made.

    seconds: None for as long as it takes.
    left: what was not begun, in order.
    """

    seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    left: list[Any] = field(default_factory=list)
    _end_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._end_s = math.inf if self.seconds is None else self.clock() + self.seconds

    def take(self, parts: Iterable[T]) -> Iterator[T]:
        """The parts one by one, until the time is up when the next is asked for; the rest goes to `left`."""
        for part in parts:
            if self.clock() < self._end_s:
                yield part
            else:
                self.left.append(part)
