"""A counter's joules at a moment from how old its readings may be, for renewals that keep to no grid.

Where spacings vary, no phase says when a renewal was. What remains is how old a reading is: between nothing and a
spacing; and its neighbours' ages go with it as far as renewals are regular. A reading and the energy of its mean age
are an estimate of the joules so far. Integrated power carries the estimates of all readings around an edge to it, less
sure with each change of power on the way, and the edge's joules are their weighted mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenwatt.power.series import Series, cumulative
from tokenwatt.power.ticks import JUMP_STEPS, MIN_READINGS, Counter

REACH_S = 3.0
"""Readings so far on both sides of an edge say something of it; power has changed too often on the way of others."""
AGES = 32
"""Parts into which the possible ages of a reading are cut."""
HARMONICS = 12
"""Of the ages' correlation, which falls with their square: the rest is less than a tenth."""
UNSEEN = 0.1
"""Power between two readings may have left the line between them as if it changed by so much more of the mean square
change: bursts of 50 ms hide between two readings."""
STEADY = 0.2
"""Power beside a jump is steady if it changes by less than this share of the jump."""
DOUBT = 0.3
"""Standard deviation of the joules that a jump is worth, as a share of what they differ from those without any jump."""
MOST_MISFIT = 2.0
"""Readings that scatter around the course of power by so many times the variance that they may have: the counter saw
another course. In the simulation nine of ten machines stay below 1.5, and of those whose power stood still, was missing
or was an average nine of ten exceed 2.7."""
PACE_READINGS = 8
"""Half a second of readings tells the counter's pace: its steps weigh little in it, and power is much the same."""
LEAST_SD_J = 0.03
"""The counter's steps of a millijoule and their like: keeps the equations sound where no power is drawn."""
EVEN_SDS = math.sqrt(12)
"""Width of an even distribution in its standard deviations."""


def energy_at(
    at_s: Series, total_j: Series, power_w: Series, edge_s: float, counter: Counter, power_period_s: float
) -> tuple[float, float] | None:
    """Joules at `edge_s` and their standard deviation; None where too few readings are near.

    Args:
        at_s: when the counter was read, increasing.
        total_j: what it said.
        power_w: power at those moments. Only its course counts, not its scale.
        edge_s: the moment; readings lie on both sides of it.
        counter: what the start-up trial found.
        power_period_s: the power reading is renewed so often, and therefore half of it late; 0 where unknown.
    """
    near = np.abs(at_s - edge_s) <= REACH_S
    at_s, total_j, power_w = at_s[near], total_j[near], power_w[near]
    if len(at_s) < MIN_READINGS or total_j[-1] <= total_j[0]:
        return None
    flow = _flow(at_s, total_j, power_w, power_period_s)
    leads = _leads(at_s, total_j, flow, edge_s, _ages(counter), counter)
    everywhere = np.ones_like(at_s, dtype=bool)
    even = leads.mean(everywhere, float(flow.drift_until(edge_s)))
    if even.misfit > MOST_MISFIT:
        return _by_pace(at_s, total_j, edge_s, _ages(counter))
    even_j = float(flow.until(edge_s) + even.lead_j)
    jumped = _at_jump(leads, flow, edge_s)
    if jumped is None:
        return even_j, even.sd_j
    return jumped[0], math.hypot(jumped[1], DOUBT * (jumped[0] - even_j))


@dataclass(frozen=True, slots=True)
class _Ages:
    """How old a reading may be."""

    age_s: Series
    share: Series
    """Of readings that are so old; sums to 1."""

    @property
    def mean_s(self) -> float:
        """Mean age."""
        return float(self.share @ self.age_s)

    @property
    def sd_s(self) -> float:
        """Standard deviation of the ages."""
        return math.sqrt(self.share @ (self.age_s - self.mean_s) ** 2)

    def correlation(self, lag_s: Series, counter: Counter) -> Series:
        """Of the ages of two readings so far apart: a sawtooth's, which fades as spacings between them vary.

        Each harmonic of a sawtooth with even phase has 1/n^2 of the variance P^2/12; a normal error of its place with
        the variance v leaves exp(-2 (pi n)^2 v / P^2) of it. Jitter is in both places, the walk in between.
        """
        period_s = counter.period_s
        strayed = (2 * counter.jitter_s**2 + lag_s / period_s * counter.walk_s**2) / period_s**2
        alike = np.zeros_like(lag_s)
        for n in range(1, HARMONICS + 1):
            alike += np.cos(2 * np.pi * n * lag_s / period_s) * np.exp(-2 * (np.pi * n) ** 2 * strayed) / n**2
        alike *= period_s**2 / 12 / self.sd_s**2 / sum(1 / n**2 for n in range(1, HARMONICS + 1))
        return np.where(lag_s == 0, 1.0, alike)


def _ages(counter: Counter) -> _Ages:
    """A reading is so old if the spacing it fell into is longer; spacings are even around the period."""
    spacing_sd_s = math.hypot(counter.walk_s, math.sqrt(2) * counter.jitter_s)
    width_s = EVEN_SDS * spacing_sd_s
    age_s = (np.arange(AGES) + 0.5) / AGES * (counter.period_s + width_s / 2)
    share = np.clip(0.5 - (age_s - counter.period_s) / width_s, 0.0, 1.0)
    return _Ages(age_s, share / share.sum())


def _by_pace(at_s: Series, total_j: Series, edge_s: float, ages: _Ages) -> tuple[float, float] | None:
    """Without power: the nearest reading on either side and the counter's own pace there; in the middle of both."""
    lines_j, paces_w = [], []
    before, after = np.flatnonzero(at_s <= edge_s)[-PACE_READINGS:], np.flatnonzero(at_s >= edge_s)[:PACE_READINGS]
    for side, nearest in ((before, -1), (after, 0)):
        if len(side) < PACE_READINGS:
            return None
        pace_w = (total_j[side[-1]] - total_j[side[0]]) / (at_s[side[-1]] - at_s[side[0]])
        lines_j.append(total_j[side[nearest]] + pace_w * (edge_s - at_s[side[nearest]] + ages.mean_s))
        paces_w.append(pace_w)
    sd_j = math.hypot(max(paces_w) * ages.sd_s, (lines_j[1] - lines_j[0]) / 2)
    return float(np.mean(lines_j)), sd_j


@dataclass(frozen=True, slots=True)
class _Flow:
    """Integrated power in the counter's scale."""

    at_s: Series
    power_w: Series
    total_j: Series
    drift_j2: Series
    """Variance that it gathered since the first moment."""

    def until(self, moment_s: Series | float) -> Series:
        """Joules up to a moment; beyond both ends power stays what it is there."""
        before_s, after_s = np.minimum(moment_s - self.at_s[0], 0.0), np.maximum(moment_s - self.at_s[-1], 0.0)
        beyond_j = before_s * self.power_w[0] + after_s * self.power_w[-1]
        return np.asarray(np.interp(moment_s, self.at_s, self.total_j) + beyond_j)

    def drift_until(self, moment_s: Series | float) -> Series:
        """Variance gathered up to a moment."""
        return np.asarray(np.interp(moment_s, self.at_s, self.drift_j2))


def _flow(at_s: Series, total_j: Series, power_w: Series, power_period_s: float) -> _Flow:
    """Power is of half its period before it was read. It is uncertain by when it changed, like `integral_sd`."""
    then_s = at_s - power_period_s / 2
    flow_j = cumulative(then_s, power_w)
    scale = (total_j[-1] - total_j[0]) / flow_j[-1]
    change_w2 = (scale * np.diff(power_w)) ** 2
    step_j2 = (change_w2 + UNSEEN * change_w2.mean()) * (np.diff(at_s) ** 2 + power_period_s**2) / 12
    return _Flow(then_s, scale * power_w, scale * flow_j, np.concatenate(([0.0], np.cumsum(step_j2))))


@dataclass(frozen=True, slots=True)
class _Mean:
    """Of leads, with its standard deviation."""

    lead_j: float
    sd_j: float
    misfit: float
    """Mean square of the leads' distances from it, each in its own variance: about 1."""


@dataclass(frozen=True, slots=True)
class _Leads:
    """By how much the counter, with the energy of each reading's mean age, leads integrated power: nearly evenly."""

    lead_j: Series
    ages_j2: Series
    """Covariance (n, n) by their ages."""
    scale_j: Series
    """By how much each moves with one standard deviation of integrated power's scale."""
    drift_j2: Series
    """Variance that integrated power had gathered when each was read."""

    def mean(self, which: NDArray[np.bool_], from_j2: float) -> _Mean:
        """Lead where `from_j2` had gathered.

        Weighted as if ages had nothing to do with each other, since weights that make use of it trust the course of
        power too much; the standard deviation is that of those weights with ages as they are.
        """
        gathered_j2 = self.drift_j2[which] - from_j2
        is_same_side = np.sign(gathered_j2)[:, None] == np.sign(gathered_j2)
        drift_j2 = np.where(is_same_side, np.minimum(np.abs(gathered_j2)[:, None], np.abs(gathered_j2)), 0.0)
        ages_j2, scale_j = self.ages_j2[np.ix_(which, which)], self.scale_j[which]
        other_j2 = drift_j2 + scale_j[:, None] * scale_j
        weight = np.linalg.solve(other_j2 + np.diag(np.diag(ages_j2)), np.ones(len(gathered_j2)))
        weight /= weight.sum()
        lead_j, covariance_j2 = weight @ self.lead_j[which], other_j2 + ages_j2
        misfit = np.mean((self.lead_j[which] - lead_j) ** 2 / np.diag(covariance_j2))
        return _Mean(float(lead_j), math.sqrt(max(misfit, 1.0) * (weight @ covariance_j2 @ weight)), float(misfit))


def _leads(at_s: Series, total_j: Series, flow: _Flow, edge_s: float, ages: _Ages, counter: Counter) -> _Leads:
    here_j = flow.until(at_s)
    since_j = here_j[:, None] - flow.until(at_s[:, None] - ages.age_s)
    aged_j = since_j @ ages.share
    sd_j = np.sqrt((since_j - aged_j[:, None]) ** 2 @ ages.share + LEAST_SD_J**2)
    ages_j2 = sd_j[:, None] * sd_j * ages.correlation(np.abs(at_s[:, None] - at_s), counter)
    # The scale comes from the growth between the first and the last reading, whose ages are not known either.
    scale_sd = math.hypot(sd_j[0], sd_j[-1]) / (total_j[-1] - total_j[0])
    scale_j = scale_sd * (here_j - flow.until(edge_s))
    return _Leads(total_j + aged_j - here_j, ages_j2, scale_j, flow.drift_until(at_s))


def _at_jump(leads: _Leads, flow: _Flow, edge_s: float) -> tuple[float, float] | None:
    """The same where power jumps between two steady levels around the edge; None where it does not.

    Joules before a jump follow one line and those after it another; where they cross is the jump. Of a rise the upper
    line is true on either side of it, of a fall the lower.
    """
    gap = int(np.searchsorted(flow.at_s, edge_s)) - 1
    levels_w = flow.power_w[max(gap - 2, 0) : gap + 4]
    usual_w = JUMP_STEPS * float(np.median(np.abs(flow.power_w[2:] - flow.power_w[:-2])))
    if gap < 2 or len(levels_w) < 6 or abs(levels_w[4] - levels_w[1]) <= usual_w:
        return None
    jump_w = levels_w[4] - levels_w[1]
    risen = (levels_w - levels_w[1]) / jump_w
    if np.any(np.abs(risen - np.clip(risen, 0, 1)) > STEADY) or abs(risen[0]) > STEADY or abs(risen[5] - 1) > STEADY:
        return None
    number = np.arange(len(flow.at_s))
    lines = []
    for anchor, which in ((gap - 1, number <= gap), (gap + 2, number > gap)):
        mean = leads.mean(which, float(flow.drift_j2[anchor]))
        line_j = flow.total_j[anchor] + flow.power_w[anchor] * (edge_s - flow.at_s[anchor])
        lines.append((float(line_j + mean.lead_j), mean.sd_j))
    return max(lines) if jump_w > 0 else min(lines)
