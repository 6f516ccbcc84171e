"""How regularly a counter is renewed, found again from ticks that were made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwatt.power.renewals import renewals
from tokenwatt.power.series import Series

PERIOD_S = 0.05
SEEN_WITHIN_S = 2e-3


def seen(true_s: Series, seed: int) -> tuple[Series, Series]:
    """Ticks as a trial of readings every 2 ms sees them: in the middle of the two readings around each."""
    read_s = SEEN_WITHIN_S * (np.arange(int(true_s[-1] / SEEN_WITHIN_S) + 2) + np.random.default_rng(seed).random())
    after = np.searchsorted(read_s, true_s)
    after = after[after > 0]
    return (read_s[after] + read_s[after - 1]) / 2, np.full(len(after), SEEN_WITHIN_S)


def ticks(seed: int, jitter: float = 0.0, walk: float = 0.0, number: int = 30) -> Series:
    """Ticks of PERIOD_S with those standard deviations, as shares of it."""
    random, wide = np.random.default_rng(seed), np.sqrt(12) * PERIOD_S
    places_s = PERIOD_S * np.arange(1, number + 1) + np.cumsum(walk * wide * (random.random(number) - 0.5))
    return places_s + jitter * wide * (random.random(number) - 0.5)


def test_ticks_some_of_which_were_hidden():
    # Ticks 0, 1, 2, 4, 5 of a period of 0.1 s; the fourth reading came 100 ms late and hid tick 3.
    found = renewals(np.array([0.0, 0.1, 0.2, 0.4, 0.5]), np.array([1e-3, 1e-3, 1e-3, 0.1, 1e-3]))
    assert found.period_s == pytest.approx(0.1)


def test_a_long_spacing_without_a_long_silence_is_one_spacing():
    # The third of five ticks is 60 ms late: spacings of 100, 160, 40 and 100 ms.
    found = renewals(np.array([0.0, 0.1, 0.26, 0.3, 0.4]), np.full(5, 1e-3))
    assert found.period_s == pytest.approx(0.1, rel=0.01)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_a_regular_counter_is_said_to_be_regular(seed: int):
    found = renewals(*seen(ticks(seed), seed))
    assert found.period_s == pytest.approx(PERIOD_S, rel=2e-3)
    # The readings leave 2 ms / sqrt(12) = 0.6 ms of each tick open.
    assert found.jitter_s < 0.6e-3
    assert found.walk_s < 0.01 * PERIOD_S


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.2])
def test_jitter_and_walk_are_told_apart(share: float):
    jittered = [renewals(*seen(ticks(seed, jitter=share), seed)) for seed in range(20)]
    walked = [renewals(*seen(ticks(seed, walk=share), seed)) for seed in range(20)]
    # 30 ticks tell a standard deviation within 1 / sqrt(60) = 13 %; the median of 20 is nearer.
    assert np.median([found.jitter_s for found in jittered]) == pytest.approx(share * PERIOD_S, rel=0.2)
    assert np.median([found.walk_s for found in walked]) == pytest.approx(share * PERIOD_S, rel=0.2)
    assert np.mean([found.jitter_s > found.walk_s for found in jittered]) >= 0.9
    assert np.mean([found.jitter_s < found.walk_s for found in walked]) >= 0.85
