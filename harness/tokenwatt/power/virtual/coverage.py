"""The coverage experiment: many seeded machines, one window on each, and how often its interval holds the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tokenwatt import power
from tokenwatt.power.virtual import loads
from tokenwatt.power.virtual.library import load
from tokenwatt.power.virtual.recorder import record
from tokenwatt.power.virtual.scenarios import BOARD
from tokenwatt.power.virtual.script import Board, Knots, Script, uuid
from tokenwatt.power.virtual.simulate import NO_RAPL
from tokenwatt.record import EnergyStatus

WORK_FROM_S = 3.0
"""The start-up trial has the clock before; then power rises for a second."""
WINDOW_FROM_S = (5.5, 8.5)
MARGIN_S = 2.0
"""Recorded after a window, as in a bench."""
AT_EDGE_S = 0.05
"""Work that a window is drawn around begins and ends so near to its edges, and rises and falls within as long."""
RENEWED_EVERY_S = (0.02, 0.1)
"""Periods of counters and of power readings on real boards."""
SDS_WIDE = math.sqrt(12)
"""Width of an even distribution in its standard deviations: the virtual boards' jitter is even."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What came out of all trials; errors are shares of the true energy."""

    trials: int
    """Machines."""
    window_s: float
    """Length of each window."""
    covered: float
    """Share of intervals that hold the true energy."""
    median_error: float
    """Median of |error|."""
    worst_error: float
    """Largest |error|."""
    half_width: float
    """Median half width of the intervals."""
    sampled_median_error: float
    """Median of |error| of the integral of sampled power, for comparison."""
    sampled_worst_error: float
    """Largest |error| of that integral."""
    refused: int
    """Windows that got no number."""


@dataclass(frozen=True, slots=True)
class Unsteady:
    """How irregular the counters' renewals are; standard deviations as shares of the period."""

    offset: float = 0.0
    """Of each renewal around its place on an even grid."""
    spacing: float = 0.0
    """Of each spacing around the period: renewals walk away from any grid."""

    def of(self, board: Board) -> Board:
        """The board with such renewals, and no others."""
        widths = [share * SDS_WIDE * board.counter_period_s for share in (self.offset, self.spacing)]
        return replace(board, counter_jitter_s=widths[0], counter_walk_s=widths[1])


def coverage(trials: int = 500, window_s: float = 5.0, seed: int = 0, unsteady: Unsteady | None = None) -> Coverage:
    """Run the experiment: loads like an LLM's, ramps, work that begins and ends with the window; counters at any phase.

    unsteady: renewals of the counters; None: each within a millisecond of its place.

    Raises:
        UserError: there is no C compiler, or no pynvml.
    """
    outcomes = [_trial(seed + trial, window_s, unsteady) for trial in range(trials)]
    known = [(energy, true_j) for energy, true_j in outcomes if energy.gpu_energy_j is not None]
    errors = np.array([abs(energy.gpu_energy_j - true_j) / true_j for energy, true_j in known if energy.gpu_energy_j])
    halves = np.array([(energy.half_width_j or 0.0) / true_j for energy, true_j in known])
    sampled = np.array([abs(energy.sampled_j - true_j) / true_j for energy, true_j in known if energy.sampled_j])
    return Coverage(
        trials=trials,
        window_s=window_s,
        covered=float(np.mean(errors <= halves)),
        median_error=float(np.median(errors)),
        worst_error=float(errors.max()),
        half_width=float(np.median(halves)),
        sampled_median_error=float(np.median(sampled)),
        sampled_worst_error=float(sampled.max()),
        refused=sum(energy.status is EnergyStatus.INVALID for energy, _ in outcomes),
    )


def _trial(seed: int, window_s: float, unsteady: Unsteady | None) -> tuple[power.Energy, float]:
    """One machine and one window: what was measured, and the truth."""
    random = np.random.default_rng(seed)
    counter_s, power_s = random.uniform(*RENEWED_EVERY_S, size=2)
    start_s = random.uniform(*WINDOW_FROM_S)
    end_s = start_s + window_s
    board = replace(
        BOARD,
        knots=_load(random, seed, start_s, window_s),
        counter_period_s=counter_s,
        counter_phase_s=random.uniform(0, counter_s),
        power_period_s=power_s,
        power_phase_s=random.uniform(0, power_s),
    )
    board = board if unsteady is None else unsteady.of(board)
    with load(Script(boards=(board,))) as machine, power.open_meters((uuid(0),), rapl_root=NO_RAPL) as meters:
        instruments = meters.learn(machine.clock, machine.sleep)
        machine.set_time(WORK_FROM_S - 0.5)
        log = record(machine, meters.meters, end_s + MARGIN_S - machine.clock(), seed=seed)
        return power.integrate(log.readings(), start_s, end_s, instruments), machine.true_energy_j(0, start_s, end_s)


def _load(random: np.random.Generator, seed: int, start_s: float, window_s: float) -> Knots:
    """A server's power; in one of five trials a ramp over the window, in one work that begins and ends at its edges."""
    low_w, high_w = random.uniform(100, 300), random.uniform(400, 690)
    if seed % 5 == 4:
        ends_w = (low_w, high_w) if random.random() < 0.5 else (high_w, low_w)
        return loads.ramp(*ends_w, start_s - random.uniform(0, 1), window_s + random.uniform(0, 2))
    if seed % 5 == 3:
        begin_s, end_s = start_s + random.uniform(0, AT_EDGE_S), start_s + window_s - random.uniform(0, AT_EDGE_S)
        rise_s = random.uniform(0, AT_EDGE_S)
        return ((begin_s, low_w), (begin_s + rise_s, high_w), (end_s, high_w), (end_s + rise_s, low_w))
    return loads.llm_like(seed=seed, seconds=start_s + window_s, begin_s=WORK_FROM_S)
