"""How a point's requests are sent: the kind of load, and how much of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenwatt.load.arrivals import Arrivals
from tokenwatt.load.load import Load
from tokenwatt.load.source import Source
from tokenwatt.record import LOAD_COLUMNS, LOAD_WORDS, LoadKind


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One kind of load at one level."""

    kind: LoadKind
    level: float
    """Conversations kept going, conversations a second, times as fast as recorded, or conversations at once."""
    ramp_s: float = 0.0
    burstiness: float = 1.0
    seed: int = 0

    @classmethod
    def closed(cls, concurrency: int) -> LoadPlan:
        """`concurrency` conversations kept going."""
        return cls("closed", concurrency)

    @property
    def label(self) -> str:
        """In words.

        >>> LoadPlan("open", 2.5).label
        '2.5 req/s'
        """
        return LOAD_WORDS[self.kind].format(self.level)

    @property
    def concurrency(self) -> int | None:
        """Conversations kept going; None unless the load is closed."""
        return int(self.level) if self.kind == "closed" else None

    def open(self, source: Source, timetable: Sequence[float] | None = None, in_mid_life: bool = False) -> Load:
        """A load of this kind, for one run.

        timetable: when the conversations of a replay come, in seconds, in order.
        in_mid_life: whether a closed loop begins with requests of all ages.
        """
        if self.kind == "closed":
            return Load.closed(source, int(self.level), in_mid_life and not self.ramp_s, self.ramp_s)
        if self.kind == "open":
            return Load.open(source, Arrivals(self.level, self.burstiness, self.ramp_s, self.seed))
        if self.kind == "offline":
            return Load.offline(source, int(self.level))
        assert timetable is not None
        return Load.replay(source, timetable, self.level)

    def columns(self) -> dict[str, Any]:
        """What `measurements` says of it."""
        level = int(self.level) if self.kind in ("closed", "offline") else float(self.level)
        burstiness = {"burstiness": self.burstiness} if self.kind == "open" else {}
        return {
            "load": self.kind,
            "concurrency": None,
            "ramp_s": self.ramp_s,
            LOAD_COLUMNS[self.kind]: level,
            **burstiness,
        }
