"""Closure: a window's board energy as static power, kernel families, and what neither explains.

    energy = static power x time + sum over families (J/FLOP x FLOP + J/byte x bytes) + rest

The figures come from loops of one family's kernels at the run's own shapes (`Engine.probes`), less static power. What
that leaves out, and the rest therefore holds:

* A loop has a warm L2 cache, and its kernels follow their own kind. Clocks and voltage settle at what that kind draws,
  not at what the mixture does.
* Static power is that of an idle board. What warmer silicon leaks beside it counts as the kernels', in the loops as in
  the run, where it may be warmer or cooler.
* Where the board is held at its power limit, static x time + dynamic still adds up, but both at lower clocks: in the
  loop those of the family alone, in the run those of the mixture. The rest then says how far the two are apart, beside
  what the host, copies and gaps between kernels cost.
* What no family is responsible for (preparing steps, copies to and from the host) is in the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import get_args

import numpy as np
from scipy.optimize import nnls

from tokenwatt import power
from tokenwatt.clock import Clock
from tokenwatt.engines.protocol import Engine, Family, Probe, Probes
from tokenwatt.errors import EngineError
from tokenwatt.metered_loop import Integrate, metered_loop
from tokenwatt.record import ClosureTerm, Measurement, Reason

MAX_CONDITION = 10.0
"""Where a small error of a loop could come back so many times larger in a figure, one of the two is set to zero. (The
condition number of the fit; loops repeat to within a percent or so.)"""
TRIALS = 3
"""Calls that are timed before a loop, of which it is told the median."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One call of a family's kernels at one shape, from a loop of such calls."""

    family: Family
    flop: float
    bytes: float
    steps: float
    """Steps of the window that the shape stands for; 0 for one that only tells operations from bytes."""
    energy_j: float
    """Above static power."""
    call_s: float
    half_width_j: float | None = None
    """Half of the 95 % interval of energy_j; None where it cannot be said."""
    shape: str = ""
    """Where the probe stands in the window, for people."""
    doubts: tuple[Reason, ...] = ()
    """Why the loop's energy is suspect; it counts all the same."""


@dataclass(frozen=True, slots=True)
class Coefficient:
    """What operations and bytes of a family cost above static power."""

    joules_per_flop: float
    joules_per_byte: float
    loops: int
    busy_s: float
    """Time that the family's kernels take in the steps that its loops stand for."""
    misfit: float
    """How far loops lie from flop x J/FLOP + bytes x J/byte: root mean square, as a share of the energy."""
    relative_half_width: float | None
    """Of the family's energy in the window: the loops' own intervals and the misfit; static power is taken as exact.
    None where a loop has no interval."""

    def energy_j(self, flop: float, bytes_: float) -> float:
        """What so much work costs."""
        return flop * self.joules_per_flop + bytes_ * self.joules_per_byte


def coefficients(observations: Sequence[Observation], balance: float | None = None) -> dict[Family, Coefficient]:
    """The figures of each family that has a loop at a shape of the window.

    Both are 0 or more, and fit the loops by least squares of relative errors. Where the loops cannot tell operations
    from bytes (one shape, or shapes with one ratio of them), all energy goes to the resource that binds: to operations
    where a byte comes with more of them than `balance`, the ratio at which the machine's ceilings meet, else to bytes;
    without a balance, to bytes. One factor for both then makes the sum over the window's steps that of the loops, so
    that a family whose loops do not lie on one plane still has the right energy at the mix that was measured.
    """
    families: tuple[Family, ...] = get_args(Family)
    grouped = {family: [each for each in observations if each.family == family] for family in families}
    return {family: _coefficient(of, balance) for family, of in grouped.items() if any(each.steps for each in of)}


def _coefficient(observations: Sequence[Observation], balance: float | None) -> Coefficient:
    steps, flop, bytes_, energy_j, call_s = (
        np.array([getattr(each, name) for each in observations], dtype=float)
        for name in ("steps", "flop", "bytes", "energy_j", "call_s")
    )
    drawn = energy_j > 0  # a loop that draws no more than static power says nothing about its two resources
    work = np.stack([flop, bytes_], axis=1)
    measured_j = float(steps @ energy_j)
    split = _split(work[drawn], energy_j[drawn], steps[drawn], balance) if drawn.any() else np.zeros(2)
    explained_j = float(steps @ (work @ split))
    figures = split * max(0.0, measured_j) / explained_j if explained_j else np.zeros(2)
    weights = (steps * energy_j)[drawn]
    errors = (work[drawn] @ figures) / energy_j[drawn] - 1
    misfit = math.sqrt(float(weights @ errors**2) / float(weights.sum())) if weights.any() else 0.0
    return Coefficient(
        joules_per_flop=float(figures[0]),
        joules_per_byte=float(figures[1]),
        loops=len(observations),
        busy_s=float(steps @ call_s),
        misfit=misfit,
        relative_half_width=_relative_half_width(observations, measured_j, misfit),
    )


def _split(work: np.ndarray, energy_j: np.ndarray, steps: np.ndarray, balance: float | None) -> np.ndarray:
    """J/FLOP and J/byte for work [loops, 2] by relative least squares, before the window's mix is looked at."""
    relative = work / energy_j[:, None]
    sizes = np.linalg.norm(relative, axis=0)
    columns = np.flatnonzero(sizes)
    if len(columns) == 2 and (len(work) < 2 or np.linalg.cond(relative / sizes) > MAX_CONDITION):
        flop, bytes_ = (steps if steps.any() else np.ones(len(steps))) @ work
        columns = columns[:1] if balance is not None and flop > balance * bytes_ else columns[1:]
    figures = np.zeros(2)
    if len(columns):
        scaled, _ = nnls(relative[:, columns] / sizes[columns], np.ones(len(energy_j)))
        figures[columns] = scaled / sizes[columns]
    return figures


def _relative_half_width(observations: Sequence[Observation], measured_j: float, misfit: float) -> float | None:
    """The loops' intervals are independent of each other; the sum over the window's steps is the loops' sum."""
    parts = [each.half_width_j for each in observations if each.steps]
    if measured_j <= 0 or None in parts:
        return None
    halves = [each.steps * (each.half_width_j or 0.0) for each in observations if each.steps]
    return math.hypot(math.hypot(*halves) / measured_j, misfit)


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """What is to be explained."""

    run_id: str
    measurement_id: str
    energy_j: float
    half_width_j: float | None
    window_s: float
    static_power_w: float
    static_half_width_w: float | None = 0.0
    """Half of the 95 % interval of static_power_w; 0 takes it as exact, None leaves all terms without an interval."""

    def static_slack_j(self, seconds: float) -> float | None:
        """What so much time at static power leaves open."""
        return None if self.static_half_width_w is None else self.static_half_width_w * seconds


def close(
    window: WindowEnergy,
    flop: Mapping[Family, float],
    bytes_: Mapping[Family, float],
    figures: Mapping[Family, Coefficient],
) -> list[ClosureTerm]:
    """Static power, each family that has figures, and the rest: together the window's energy.

    flop, bytes_: of each family in the window. A family that has work but no figures has no term; what it took is in
    the rest, whose half width is then None.

    An error of static power moves the static term up and the families down, whose loops it was taken from; so it counts
    in the rest for the time in which no kernel ran alone.
    """
    place = {"run_id": window.run_id, "measurement_id": window.measurement_id}
    static_j, slack_j = window.static_power_w * window.window_s, window.static_slack_j(window.window_s)
    terms = [ClosureTerm(**place, term="static", energy_j=static_j, half_width_j=slack_j or None)]
    halves, left_s, is_known = [window.half_width_j], window.window_s, True
    for family in _worked(flop, bytes_):
        figure = figures.get(family)
        if figure is None:
            is_known = False
            continue
        energy_j = figure.energy_j(flop[family], bytes_[family])
        share = figure.relative_half_width
        halves.append(None if share is None else share * energy_j)
        half_j = _together(halves[-1], window.static_slack_j(figure.busy_s))
        left_s -= figure.busy_s
        terms.append(
            ClosureTerm(
                **place, term=family, energy_j=energy_j, half_width_j=half_j,
                flop=flop[family], bytes=bytes_[family], joules_per_flop=figure.joules_per_flop,
                joules_per_byte=figure.joules_per_byte, loops=figure.loops,
            )
        )  # fmt: skip
    rest_j = window.energy_j - sum(term.energy_j for term in terms)
    rest_half_j = _together(*halves, window.static_slack_j(left_s)) if is_known else None
    return [*terms, ClosureTerm(**place, term="rest", energy_j=rest_j, half_width_j=rest_half_j)]


def _worked(flop: Mapping[Family, float], bytes_: Mapping[Family, float]) -> list[Family]:
    return [family for family in get_args(Family) if flop.get(family) or bytes_.get(family)]


def _together(*halves: float | None) -> float | None:
    """Half width of a sum of independent parts; None if one is unknown."""
    known = [half for half in halves if half is not None]
    return math.hypot(*known) if len(known) == len(halves) else None


@dataclass(frozen=True, slots=True)
class Closure:
    """The terms of a window, and what is missing in them, in words."""

    terms: tuple[ClosureTerm, ...] = ()
    remarks: tuple[str, ...] = ()


def measure(
    engine: Engine,
    meters: power.Meters,
    clock: Clock,
    row: Measurement,
    *,
    static_half_width_w: float | None = 0.0,
    integrate: Integrate = power.integrate,
    on_progress: Callable[[str], None] = lambda label: None,
) -> Closure:
    """Meter the families of a window of the engine's last `serve`, which is over, and explain the window's energy.

    Takes some four seconds for each family and shape, up to half a minute in all. A window without trusted energy or
    static power, and an engine without probes, have no terms; the remarks say so. Where a loop at one of a family's
    shapes failed, its other loops speak for all of its steps, and nobody can say how well: there is no half width.

    clock: the run's, which `row` was measured on.
    static_half_width_w: half of the 95 % interval of the row's static power; None where it cannot be said.
    integrate: `power.integrate`, told what was learnt of the instruments, and a cap that was set on purpose.
    on_progress: is told what is metered next.
    """
    window, reason = _explained(row, static_half_width_w)
    if window is None:
        return Closure(remarks=(reason,))
    assert row.window_start_s is not None  # as window_s is
    probes = engine.probes(row.window_start_s, row.window_start_s + window.window_s)
    if not probes.probes:
        return Closure(remarks=(probes.refusal,))
    observations: list[Observation] = []
    remarks: list[str] = []
    failed: set[Family] = set()
    for probe in probes.probes:
        on_progress(f"energy of {probe.family}, {probe.shape}")
        found = meter_probe(probe, window.static_power_w, meters, clock, integrate)
        if isinstance(found, Observation):
            observations.append(found)
            continue
        remarks.append(found)
        if probe.steps:
            failed.add(probe.family)
    figures = {
        family: replace(figure, relative_half_width=None) if family in failed else figure
        for family, figure in coefficients(observations, _balance(row)).items()
    }
    remarks += [*_doubtful(observations), *_unmetered(probes, figures)]
    return Closure(tuple(close(window, probes.flop, probes.bytes, figures)), tuple(remarks))


def _explained(row: Measurement, static_half_width_w: float | None) -> tuple[WindowEnergy | None, str]:
    """The window's energy, or why it cannot be explained."""
    if row.gpu_energy_j is None or row.window_s is None:
        return None, f"the window has no trusted board energy: {', '.join(row.energy_reasons) or row.energy_status}"
    if row.gpu_static_power_w is None:
        return None, "static power was not measured"
    window = WindowEnergy(
        row.run_id, row.measurement_id, row.gpu_energy_j, row.gpu_energy_half_width_j, row.window_s,
        row.gpu_static_power_w, static_half_width_w,
    )  # fmt: skip
    return window, ""


def _balance(row: Measurement) -> float | None:
    """Operations for each byte at which the machine's two ceilings meet."""
    flop_per_s, bytes_per_s = row.ceiling_flop_per_s, row.ceiling_memory_bytes_per_s
    return flop_per_s / bytes_per_s if flop_per_s and bytes_per_s else None


def _doubtful(observations: Iterable[Observation]) -> list[str]:
    """Loops that count though their energy is suspect, a line for those with the same doubts."""
    by_doubts: dict[tuple[Reason, ...], list[str]] = {}
    for each in observations:
        by_doubts.setdefault(each.doubts, []).append(f"{each.family}, {each.shape}")
    return [
        f"suspect ({', '.join(doubts)}), and counted: {'; '.join(loops)}"
        for doubts, loops in by_doubts.items()
        if doubts
    ]


def _unmetered(probes: Probes, figures: Iterable[Family]) -> list[str]:
    missing = set(_worked(probes.flop, probes.bytes)) - set(figures)
    return [f"{family} has no valid loop; its energy is in the rest" for family in sorted(missing)]


def meter_probe(
    probe: Probe, static_power_w: float, meters: power.Meters, clock: Clock, integrate: Integrate = power.integrate
) -> Observation | str:
    """The energy of one call above static power, from a loop of two seconds; or why there is none.

    An energy that is suspect counts, such as that of a loop held at the power limit, and says why; an invalid one does
    not.
    """
    what = f"{probe.family}, {probe.shape}"
    try:
        call = probe.prepare()
    except EngineError as error:
        return f"{what}: {error}"
    loop = metered_loop(call, _call_s(call, clock), power.Sampler(meters.meters, clock), clock, integrate)
    energy_j = loop.energy.gpu_energy_j
    if energy_j is None:
        return f"{what}: {loop.failure or ', '.join(loop.energy.reasons) or loop.energy.status}"
    half_width_j = loop.energy.half_width_j
    return Observation(
        family=probe.family,
        flop=probe.flop,
        bytes=probe.bytes,
        steps=probe.steps,
        energy_j=(energy_j - static_power_w * loop.window_s) / loop.calls,
        call_s=loop.window_s / loop.calls,
        half_width_j=None if half_width_j is None else half_width_j / loop.calls,
        shape=probe.shape,
        doubts=loop.energy.reasons,
    )


def _call_s(function: Callable[[], object], clock: Clock) -> float:
    """Seconds that a GPU takes for a call."""
    import torch

    from tokenwatt_kernels import timing

    launch = timing.in_one_launch(function, 1)
    launch()
    seconds = []
    for _ in range(TRIALS):
        torch.cuda.synchronize()
        began_s = clock()
        launch()
        torch.cuda.synchronize()
        seconds.append(clock() - began_s)
    return median(seconds)
