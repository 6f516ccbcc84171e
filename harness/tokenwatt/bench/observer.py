"""Who watches a run: the command line draws what it is told here."""

from __future__ import annotations

from typing import Protocol

from tokenwatt.record import Measurement

DISPLAY_PERIOD_S = 0.2
"""How often the observer hears of progress: once per token would cost a large batch a measurable share of its step."""


class Observer(Protocol):
    """Is told how far a run is; the command line draws it."""

    def begin(self, label: str, expected_s: float) -> None:
        """A point or a preparation begins and will take about so many seconds (0 if nobody knows)."""
        ...

    def advance(self, elapsed_s: float) -> None:
        """So many seconds of it have passed."""
        ...

    def end(self, measurement: Measurement | None) -> None:
        """It is over; a point hands over the row of its last window."""
        ...


class Unwatched:
    """Nobody watches."""

    def begin(self, label: str, expected_s: float) -> None:
        """Said to nobody."""

    def advance(self, elapsed_s: float) -> None:
        """Said to nobody."""

    def end(self, measurement: Measurement | None) -> None:
        """Said to nobody."""
