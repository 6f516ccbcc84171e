"""What is learnt of a meter before it is trusted: how often its readings are renewed, and what is set on the board."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tokenwatt.clock import Clock
from tokenwatt.power.renewals import renewals
from tokenwatt.power.series import Series
from tokenwatt.power.ticks import Counter

TRIAL_S = 1.5
"""Fifteen ticks of the slowest counter that is common."""
POLL_S = 1e-3
"""Pause between two readings of the trial, which therefore places a tick within about a millisecond."""
MIN_TICKS = 5
"""Fewer ticks say nothing about a period."""

Sleep = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Instrument:
    """One source of readings. None and False where nothing is known, which costs certainty and is never guessed."""

    counter: Counter | None = None
    """None where the counter was not seen to tick: then it is read as it stands, and each edge is less certain."""
    power_period_s: float | None = None
    """How often the power reading is renewed."""
    power_limit_default_w: float | None = None
    """Power limit that the board comes with."""
    is_mig: bool = False
    """Whether the board is cut in slices, whose power cannot be told apart."""
    is_trailing_average: bool = False
    """Whether the source itself says that its power is an average over time gone by."""


Instruments = Mapping[str, Instrument]
"""By source. A source that is named here and has no samples is a board that was to be metered and was not."""


@dataclass(slots=True)
class _Trial:
    """Readings of one source in quick succession."""

    at_s: list[float]
    energy_j: list[float | None]
    power_w: list[float | None]
    call_s: list[float]


@dataclass(frozen=True, slots=True)
class QuickRead:
    """The two readings of one source that are tried out; each is None where the source has none."""

    energy_j: Callable[[], float | None]
    power_w: Callable[[], float | None]


def learn_periods(
    sources: Mapping[str, QuickRead], clock: Clock, sleep: Sleep
) -> dict[str, tuple[Counter | None, float | None]]:
    """Poll all sources for TRIAL_S and find for each its counter's ticks and the period of its power reading."""
    trials = {source: _Trial([], [], [], []) for source in sources}
    begin_s = clock()
    while clock() - begin_s < TRIAL_S:
        for source, read in sources.items():
            trial, before_s = trials[source], clock()
            trial.energy_j.append(read.energy_j())
            after_s = clock()
            trial.power_w.append(read.power_w())
            trial.at_s.append((before_s + after_s) / 2)
            trial.call_s.append(after_s - before_s)
        sleep(POLL_S)
    return {source: (_counter(trial), _power_period_s(trial)) for source, trial in trials.items()}


def _counter(trial: _Trial) -> Counter | None:
    tick_s, width_s = _changes(trial.at_s, trial.energy_j)
    if len(tick_s) < MIN_TICKS:
        return None
    found = renewals(tick_s, width_s)
    return Counter(found.period_s, found.jitter_s, float(np.median(trial.call_s)), found.walk_s)


def _power_period_s(trial: _Trial) -> float | None:
    changes_s, _ = _changes(trial.at_s, trial.power_w)
    return float(np.median(np.diff(changes_s))) if len(changes_s) >= MIN_TICKS else None


def _changes(at_s: list[float], values: list[float | None]) -> tuple[Series, Series]:
    """Moments, halfway between two readings, at which a value became another, and how far those readings lie apart.

    Unknown values are passed over.
    """
    known = [(at, value) for at, value in zip(at_s, values, strict=True) if value is not None]
    changes = [(before[0], after[0]) for before, after in pairwise(known) if before[1] != after[1]]
    before_s, after_s = np.array(changes).reshape(-1, 2).T
    return (before_s + after_s) / 2, after_s - before_s
