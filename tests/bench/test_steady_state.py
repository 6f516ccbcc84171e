"""The steady window on literal timelines."""

import itertools

import numpy as np
import pytest
from tests.factories import lockstep

from tokenwatt import steady_state
from tokenwatt.engines.protocol import TokenEvent
from tokenwatt.record import Reason
from tokenwatt.steady_state import Timeline, in_mid_life
from tokenwatt.workloads import Request


def test_the_window_starts_when_all_slots_have_answered_and_ends_on_a_token():
    # Two slots answer at 1 and 2 s, then each emits a token every second until 40 s.
    timeline = lockstep(first_tokens_s=(1.0, 2.0), period_s=1.0, until_s=40.0)
    window = steady_state.find(timeline, wanted_s=30.5, min_window_s=20.0)
    assert window is not None
    assert (window.start_s, window.end_s) == (2.0, 32.0)  # 2 + 30.5 = 32.5, the last token before it is at 32
    assert window.running == 2.0
    assert window.holds(32.0)
    assert not window.holds(2.0)
    assert not window.holds(None)


def test_a_request_in_mid_life_has_its_output_so_far_in_its_prompt():
    request = Request(3, np.arange(5, dtype=np.int32), max_tokens=8)
    aged = in_mid_life(request, left=0.25)
    assert aged.max_tokens == 2  # a quarter of 8 is to come
    assert aged.prompt.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]  # 5 + the 6 that it has produced
    assert aged.index == 3


def test_slots_start_at_ages_spread_over_a_life():
    requests = [Request(index, np.zeros(10, dtype=np.int32), max_tokens=40) for index in range(6)]
    timeline = Timeline(4)
    sent = list(timeline.send(iter(requests), clock=lambda: 0.0))
    # To come: a quarter, a half, three quarters, all; from the fifth on whole requests. Contexts end at 50 for each.
    assert [request.max_tokens for request in sent] == [10, 20, 30, 40, 40, 40]
    assert [len(request.prompt) for request in sent] == [40, 30, 20, 10, 10, 10]
    assert [trace.is_ramp for trace in timeline.traces.values()] == [True, True, True, False, False, False]


def simulated_rate(window_s: float) -> float:
    """Tokens/s over a window of an engine whose steps take 1 ms and 2 us per token of context, 16 in flight."""
    timeline, now_s = Timeline(16), 0.0
    requests = (Request(index, np.zeros(16, dtype=np.int32), max_tokens=400) for index in itertools.count())
    sent = timeline.send(requests, clock=lambda: now_s)
    running = [(next(sent), 0) for _ in range(16)]
    while timeline.start_s is None or now_s < timeline.start_s + window_s:
        now_s += 1e-3 + 2e-6 * sum(len(request.prompt) + produced for request, produced in running)
        for slot, (request, produced) in enumerate(running):
            is_last = produced + 1 == request.max_tokens
            timeline.record(TokenEvent(request.index, now_s, 1, is_last, running=16))
            running[slot] = (next(sent), 0) if is_last else (request, produced + 1)
    window = steady_state.find(timeline, window_s, min_window_s=0.1)
    assert window is not None
    return sum(map(window.holds, timeline.token_times)) / window.length_s


def test_a_window_of_half_a_request_already_has_the_steady_rate():
    # Mean context 16 + 400 / 2 = 216, so a step takes 1 + 16 x 216 x 0.002 = 7.9 ms and a request 3.2 s; if all slots
    # began at age 0, the first 1.6 s would see half the mean context and run at nearly twice the rate.
    assert simulated_rate(1.6) == pytest.approx(simulated_rate(30.0), rel=0.01)
    assert simulated_rate(30.0) == pytest.approx(16 / 7.9e-3, rel=0.01)


def test_ramp_down_is_left_out():
    # Slot 0 finishes at 21 s and nothing replaces it: fewer than two are in flight for good from there.
    timeline = lockstep(first_tokens_s=(1.0, 1.0), period_s=1.0, until_s=40.0, ends_s=(21.0, None))
    window = steady_state.find(timeline, wanted_s=60.0, min_window_s=5.0)
    assert window is not None
    assert (window.start_s, window.end_s) == (1.0, 21.0)


def test_without_enough_answers_there_is_no_window():
    timeline = lockstep(first_tokens_s=(1.0,), period_s=1.0, until_s=5.0, concurrency=2)
    assert steady_state.find(timeline, 10.0, 1.0) is None


def test_each_doubt_has_its_reason():
    timeline = lockstep(first_tokens_s=(0.5, 0.5), period_s=0.5, until_s=10.0, running=1)
    window = steady_state.find(timeline, wanted_s=30.0, min_window_s=20.0)
    assert window is not None
    assert window.running == 1.0
    # 9.5 s < 20 s; 1 < 0.85 x 2; 38 tokens < 10 bins x 20.
    assert window.reasons == (Reason.WINDOW_TOO_SHORT, Reason.TOO_FEW_RUNNING, Reason.TOO_FEW_TOKENS)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([100] * 10, False),
        (list(range(100, 110)), False),  # 9 % end to end: below the 10 % that counts
        (list(range(100, 150, 5)), True),  # 45 of a mean of 122, no noise
        ([100, 140, 90, 150, 95, 130, 105, 160, 80, 150], False),  # large steps, but no trend beyond them
        ([0] * 10, False),
    ],
)
def test_drift_needs_a_large_slope_beyond_the_noise(values, expected):
    assert steady_state.drifts(np.array(values, dtype=float)) is expected
