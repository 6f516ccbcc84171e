"""What meters said, in columns: a day of eight boards, 11 million readings, takes a gigabyte.

A log grows by blocks that stay where they are. Moving it to a larger place now and then would hold up the sampler: near
the end of that day for most of a second, and a gap of three periods spoils a window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tokenwatt.power.series import Series
from tokenwatt.record import PowerSample

Quantity = Literal[
    "at_s",
    "energy_j",
    "power_w",
    "sm_clock_hz",
    "memory_clock_hz",
    "temperature_c",
    "power_limit_w",
    "call_s",
    "module_power_w",
    "other_processes",
    "unmetered_gpus",
]
"""Fields of a `PowerSample` that are numbers."""

QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
_quantities = attrgetter(*QUANTITIES)
_THROTTLED = len(QUANTITIES)
"""Row of a block below those of the quantities: which of the log's sets of throttle reasons a reading has."""
BLOCK = 4096
"""Readings of a block: four minutes of one source."""


@dataclass(frozen=True, slots=True)
class SourceReadings:
    """A stretch of one source's readings, in the order in which they were taken. The log may grow on behind it."""

    _blocks: list[Series]
    _throttle_sets: dict[tuple[str, ...], int]
    _first: int
    _last: int

    def __len__(self) -> int:
        return self._last - self._first

    def column(self, quantity: Quantity) -> Series:
        """The quantity of each reading; nan where the source did not tell."""
        return self._row(QUANTITIES.index(quantity))

    def known(self, quantity: Quantity) -> Series:
        """The quantity of the readings that have it."""
        values = self.column(quantity)
        return values[np.isfinite(values)]

    def throttle_sets(self) -> tuple[list[tuple[str, ...]], NDArray[np.intp]]:
        """Different sets of throttle reasons, and the place of each reading's among them."""
        return list(self._throttle_sets), self._row(_THROTTLED).astype(np.intp)

    def throttle_reasons(self) -> set[str]:
        """Every throttle reason of some reading."""
        sets, places = self.throttle_sets()
        return {reason for place in np.unique(places) for reason in sets[place]}

    def between(self, start_s: float, end_s: float) -> SourceReadings:
        """From the first reading in that time, edges included, to the last one."""
        at_s = self.column("at_s")
        inside = np.flatnonzero((start_s <= at_s) & (at_s <= end_s))
        first, last = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
        return replace(self, _first=self._first + first, _last=self._first + last)

    def parts(self, length: int) -> Iterator[SourceReadings]:
        """The same in parts of so many readings."""
        for first in range(self._first, self._last, length):
            yield replace(self, _first=first, _last=min(first + length, self._last))

    def _row(self, place: int) -> Series:
        if not len(self):
            return np.empty(0)
        skipped = self._first // BLOCK
        blocks = self._blocks[skipped : -(-self._last // BLOCK)]
        row = np.concatenate([block[place] for block in blocks])
        return row[self._first - skipped * BLOCK : self._last - skipped * BLOCK]


PowerReadings = Mapping[str, SourceReadings]
"""By source, in the order of their first readings; a source without any is left out."""


@dataclass(slots=True)
class _Growing:
    """All readings of one source so far."""

    blocks: list[Series] = field(default_factory=list)
    """[quantities and throttle set, BLOCK] each."""
    throttle_sets: dict[tuple[str, ...], int] = field(default_factory=dict)
    length: int = 0

    def append(self, sample: PowerSample) -> None:
        if self.length == BLOCK * len(self.blocks):
            self.blocks.append(np.empty((len(QUANTITIES) + 1, BLOCK)))
        throttled = self.throttle_sets.setdefault(sample.throttle_reasons, len(self.throttle_sets))
        self.blocks[-1][:, self.length % BLOCK] = (*_quantities(sample), throttled)
        self.length += 1  # last: whoever reads meanwhile sees whole readings


class PowerLog:
    """Every reading of a run, by source. One thread may add to it while others read."""

    def __init__(self, samples: Iterable[PowerSample] = ()) -> None:
        self._sources: dict[str, _Growing] = {}
        self.extend(samples)

    def extend(self, samples: Iterable[PowerSample]) -> None:
        """Take in samples, each source's in the order in which they were taken.

        Raises:
            TypeError, ValueError: a quantity is not a number.
        """
        for sample in samples:
            if sample.source not in self._sources:
                self._sources[sample.source] = _Growing()
            self._sources[sample.source].append(sample)

    def readings(self, start_s: float = -math.inf, end_s: float = math.inf) -> PowerReadings:
        """What there is so far from `start_s` to `end_s`, edges included."""
        found = {
            source: SourceReadings(log.blocks, log.throttle_sets, 0, log.length).between(start_s, end_s)
            for source, log in list(self._sources.items())
        }
        return {source: readings for source, readings in found.items() if len(readings)}
