"""Edges of counters that keep to no grid: within what is said, beside a jump, and without a course of power."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tokenwatt.power.ages import energy_at
from tokenwatt.power.series import Series
from tokenwatt.power.ticks import Counter

COUNTER = Counter(0.1, jitter_s=0.0, call_s=0.0, walk_s=0.02)
LEVEL_W = 400.0


def readings(seed: int) -> tuple[Series, Series]:
    """Dithered readings for 10 s, and when the counter that they read was renewed: spacings of 65 to 135 ms."""
    random = np.random.default_rng(seed)
    tick_s = np.cumsum(0.1 + math.sqrt(12) * 0.02 * (random.random(120) - 0.5))
    at_s = 0.2 + np.cumsum(random.uniform(0.05, 0.075, 150))
    at_s = at_s[at_s < tick_s[-1]]
    return at_s, tick_s[np.searchsorted(tick_s, at_s, side="right") - 1]


def rising_j(at_s: Series) -> Series:
    """200 W, and LEVEL_W from 5 s on."""
    return 200.0 * at_s + (LEVEL_W - 200.0) * np.maximum(at_s - 5.0, 0.0)


def test_steady_power_is_found_within_what_is_said():
    errors_sds = []
    for seed in range(60):
        at_s, ticked_s = readings(seed)
        found = energy_at(at_s, LEVEL_W * ticked_s, np.full_like(at_s, LEVEL_W), 5.0, COUNTER, 0.0)
        assert found is not None
        errors_sds.append((found[0] - 5.0 * LEVEL_W) / found[1])
        # A reading is 29 ms x 400 W = 12 J uncertain; the 96 within 3 s together are far less.
        assert found[1] < 12.0 / 4
    assert np.mean(np.abs(errors_sds) < 1.96) >= 0.9
    assert abs(np.mean(errors_sds)) < 3 / math.sqrt(60)


@pytest.mark.parametrize("edge_s", [4.98, 5.02])
def test_an_edge_beside_a_jump_is_not_taken_for_half_a_jump(edge_s: float):
    errors_j = []
    for seed in range(60):
        at_s, ticked_s = readings(seed)
        course_w = np.where(at_s < 5.0, 200.0, LEVEL_W)
        found = energy_at(at_s, rising_j(ticked_s), course_w, edge_s, COUNTER, 0.0)
        assert found is not None
        errors_j.append(found[0] - rising_j(np.array([edge_s]))[0])
    # Power of the line between two readings 62 ms apart is wrong by up to 200 W x 62 ms / 8 = 1.6 J, always upwards.
    assert abs(np.mean(errors_j)) < 1.0
    assert np.std(errors_j) < 4.0


def test_a_course_that_the_counter_did_not_see_is_not_believed():
    at_s, ticked_s = readings(1)
    total_j = rising_j(ticked_s)
    still = energy_at(at_s, total_j, np.full_like(at_s, 300.0), 5.0, COUNTER, 0.0)
    seen = energy_at(at_s, total_j, np.where(at_s < 5.0, 200.0, LEVEL_W), 5.0, COUNTER, 0.0)
    assert still is not None
    assert seen is not None
    # One reading's age, at the higher pace: 32 ms x 400 W.
    assert still[1] >= 0.028 * LEVEL_W > seen[1]
    assert abs(still[0] - 1000.0) < 1.96 * still[1]


def test_only_the_course_of_power_counts():
    at_s, ticked_s = readings(2)
    course_w = np.where(at_s < 5.0, 200.0, LEVEL_W)
    once = energy_at(at_s, rising_j(ticked_s), course_w, 4.0, COUNTER, 0.05)
    scaled = energy_at(at_s, rising_j(ticked_s), 1.7 * course_w, 4.0, COUNTER, 0.05)
    assert once is not None
    assert once == pytest.approx(scaled)


def test_the_less_regular_a_counter_the_wider():
    at_s, ticked_s = readings(3)
    total_j, course_w = LEVEL_W * ticked_s, np.full_like(at_s, LEVEL_W)
    sds_j = []
    for walk_s in (0.005, 0.02, 0.04):
        found = energy_at(at_s, total_j, course_w, 5.0, replace(COUNTER, walk_s=walk_s), 0.0)
        assert found is not None
        sds_j.append(found[1])
    assert sds_j == sorted(sds_j)


def test_too_few_readings_say_nothing():
    at_s: Series = np.linspace(0.0, 0.6, 11)
    assert energy_at(at_s, 100.0 * at_s, np.full(11, 100.0), 0.3, COUNTER, 0.0) is None
