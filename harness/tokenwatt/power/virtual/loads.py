"""What a board's work makes it draw: knots of true power, the same for the same seed."""

from __future__ import annotations

import math

import numpy as np

from tokenwatt.power.virtual.script import Knots

IDLE_W = 80.0
"""Power of a board without work."""
RISE_S = 1.0
"""How long a board takes to reach its power when work begins."""
STEP_S = 0.03
"""A decode step of a mid-size model."""
CURVE_POINTS = 128
"""Straight lines in a period of `sine`: they stay within amplitude x (pi / 128)^2 / 2, 0.03 %, of the curve."""


def constant(watts: float) -> Knots:
    """The same power always."""
    return ((0.0, watts),)


def ramp(from_w: float, to_w: float, begin_s: float, seconds: float) -> Knots:
    """One power, a straight line of so many seconds, and the other power from then on."""
    return ((begin_s, from_w), (begin_s + seconds, to_w))


def square(low_w: float, high_w: float, period_s: float) -> Knots:
    """One period of equal parts at the low and at the high power; for `repeat`."""
    half_s = period_s / 2
    return ((0.0, low_w), (half_s, low_w), (half_s, high_w), (period_s, high_w))


def sine(mean_w: float, amplitude_w: float, period_s: float) -> Knots:
    """One period of a sine that begins at its mean, going up; for `repeat`."""
    turns = [point / CURVE_POINTS for point in range(CURVE_POINTS + 1)]
    return tuple((turn * period_s, mean_w + amplitude_w * math.sin(2 * math.pi * turn)) for turn in turns)


def llm_like(seed: int, seconds: float, begin_s: float = 0.0) -> Knots:
    """Idle, a rise of a second at `begin_s`, then so many seconds of a server: prefill bursts between decode stretches.

    A burst is 50 to 400 ms at 600 to 690 W; a stretch 0.5 to 2 s around a level of 400 to 500 W, moving by a few
    percent with each step of 30 ms.
    """
    random = np.random.default_rng(seed)
    knots = [(begin_s, IDLE_W)]
    at_s = begin_s + RISE_S
    while at_s < begin_s + seconds:
        level_w = random.uniform(400, 500)
        for _ in range(round(random.uniform(0.5, 2.0) / STEP_S)):
            at_s = _hold(knots, at_s, STEP_S, level_w * random.normal(1, 0.03))
        at_s = _hold(knots, at_s, random.uniform(0.05, 0.4), random.uniform(600, 690))
    return tuple(knot for knot in knots if knot[0] < begin_s + seconds)


def _hold(knots: list[tuple[float, float]], at_s: float, seconds: float, watts: float) -> float:
    """Add a level with upright edges; when it ends."""
    knots += [(at_s, watts), (at_s + seconds, watts)]
    return at_s + seconds
