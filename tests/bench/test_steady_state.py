"""The steady window on literal timelines."""

import time

import numpy as np
import pytest
from tests.factories import lockstep, sent

from tokenwatt import steady_state
from tokenwatt.engines.protocol import Failure, TokenEvent
from tokenwatt.load import Listed, Load
from tokenwatt.load.load import in_mid_life
from tokenwatt.record import Reason, RequestStatus
from tokenwatt.steady_state import Timeline
from tokenwatt.workloads import Request

FAILED = Failure(RequestStatus.OVERLOADED, "429")


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
    load = Load.closed(Listed(tuple(requests)), 4, in_mid_life=True)
    load.on_sent = timeline.note_sent
    sent = list(load.take(0.0))
    for request in sent[:2]:
        load.ended(request.index, 1.0)
    sent += load.take(1.0)
    # To come: a quarter, a half, three quarters, all; from the fifth on whole requests. Contexts end at 50 for each.
    assert [request.max_tokens for request in sent] == [10, 20, 30, 40, 40, 40]
    assert [len(request.prompt) for request in sent] == [40, 30, 20, 10, 10, 10]
    assert [trace.sent.is_ramp for trace in timeline.traces.values()] == [True, True, True, False, False, False]


def simulated_rate(window_s: float) -> float:
    """Tokens/s over a window of an engine whose steps take 1 ms and 2 us per token of context, 16 in flight."""
    timeline, now_s = Timeline(16), 0.0
    requests = tuple(Request(index, np.zeros(16, dtype=np.int32), max_tokens=400) for index in range(1000))
    load = Load.closed(Listed(requests), 16, in_mid_life=True)
    load.on_sent = timeline.note_sent
    running = [(request, 0) for request in load.take(now_s)]
    while timeline.start_s is None or now_s < timeline.start_s + window_s:
        now_s += 1e-3 + 2e-6 * sum(len(request.prompt) + produced for request, produced in running)
        for slot, (request, produced) in enumerate(running):
            is_last = produced + 1 == request.max_tokens
            timeline.record(TokenEvent(request.index, now_s, 1, is_last, running=16))
            running[slot] = (request, produced + 1)
            if is_last:
                load.ended(request.index, now_s)
                running[slot] = (next(load.take(now_s)), 0)
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
        (np.linspace(100, 103.9, 10), False),  # 3.9 of 102: 3.8 % end to end, below the 4 % that count
        (np.linspace(100, 104.3, 10), True),  # 4.3 of 102.15: 4.2 %, no noise
        (np.linspace(100, 109.5, 10), True),  # a ramp that was stable once
        (list(range(100, 150, 5)), True),  # 45 of a mean of 122, no noise
        ([100, 140, 90, 150, 95, 130, 105, 160, 80, 150], False),  # large steps, but no trend beyond them
        ([0] * 10, False),
    ],
)
def test_drift_needs_a_large_slope_beyond_the_noise(values, expected):
    assert steady_state.drifts(np.array(values, dtype=float)) is expected


@pytest.mark.parametrize("tokens_per_bin", [20, 100, 1000, 10000])
def test_noise_alone_is_taken_for_a_drift_in_one_window_of_fifty_at_most(tokens_per_bin):
    # Counts of independent tokens, 5000 windows: 2 % by the t value, 0.2 % of that by chance.
    random = np.random.default_rng(2)
    drifting = [steady_state.drifts(random.poisson(tokens_per_bin, 10).astype(float)) for _ in range(5000)]
    assert np.mean(drifting) < 0.026


def test_windows_follow_each_other_token_by_token():
    # A token of each of two slots every second from 2 s on; windows of 10.5 s end on the token before 12.5, 22.5 ...
    timeline = lockstep(first_tokens_s=(1.0, 2.0), period_s=1.0, until_s=40.0)
    edges = []
    for index in range(4):
        window = steady_state.find(timeline, 10.5, 5.0, index)
        assert window is not None
        edges.append((window.start_s, window.end_s))
        assert window.running == 2.0
    assert edges == [(2.0, 12.0), (12.0, 22.0), (22.0, 32.0), (32.0, 40.0)]  # the run is over at 40 s
    assert steady_state.find(timeline, 10.5, 5.0, 4) is None


def test_each_window_is_judged_by_itself():
    # Tokens of two slots every 0.1 s from 0.1 s on; those of 20.1 to 40.1 s grow from 1 to 3 at a time.
    timeline = lockstep(first_tokens_s=(0.1, 0.1), period_s=0.1, until_s=60.5)
    for place, at_s in enumerate(timeline.token_times):
        if 20.15 < at_s < 40.15:
            timeline.token_counts[place] = 1 + round((at_s - 20.1) / 10)
    found = [steady_state.find(timeline, 20.05, 19.9, index) for index in range(3)]
    assert [window.reasons for window in found if window is not None] == [(), (Reason.TOKEN_RATE_DRIFTS,), ()]


def test_contexts_are_what_stands_before_a_token():
    timeline = Timeline(1)
    timeline.note_sent(sent(0, isl=10, osl=4))
    for step in range(4):
        timeline.record(TokenEvent(0, float(step + 1), 1, step == 3, 1))
    assert list(timeline.contexts) == [10, 11, 12, 13]
    assert timeline.mean_context(1.0, 4.0) == 12.0  # the tokens at 2, 3 and 4 s
    assert timeline.mean_context(4.0, 9.0) == 0.0
    assert timeline.output_tokens(1.0, 3.0) == 2
    assert timeline.input_tokens(0.0, 1.0) == 10
    assert timeline.input_tokens(1.0, 4.0) == 0


def prefill(prompts_per_s: float, until_s: float, isl: int = 100) -> Timeline:
    """Two in flight, of which one at a time is computed: a prompt, one token, the next one."""
    timeline = Timeline(2, "prefill")
    timeline.note_sent(sent(0, isl, osl=1))
    for step in range(round(until_s * prompts_per_s)):
        timeline.note_sent(sent(step + 1, isl, osl=1))
        timeline.record(TokenEvent(step, (step + 1) / prompts_per_s, 1, True, running=1))
    return timeline


def test_prefill_is_judged_by_its_prompts():
    # One running of two in flight, and 40 answers in 20 s: too few for tokens, but they are of 100 prompt tokens each.
    window = steady_state.find(prefill(2.0, 30.0), wanted_s=20.0, min_window_s=20.0)
    assert window is not None
    assert (window.length_s, window.running, window.reasons) == (20.0, 1.0, ())


def test_sequences_of_decode_may_not_end():
    timeline = Timeline(2, "decode")
    for index in range(2):
        timeline.note_sent(sent(index, isl=10, osl=40))
    for step in range(40):
        for index in range(2):
            timeline.record(TokenEvent(index, step + 1.0, 1, step == 39, 2))
    window = steady_state.find(timeline, wanted_s=60.0, min_window_s=50.0)
    assert window is not None
    assert (window.start_s, window.end_s) == (1.0, 40.0)  # both end there
    assert Reason.WINDOW_TOO_SHORT in window.reasons


def test_with_a_free_number_in_flight_the_window_starts_when_more_have_ended_than_are_in_flight():
    timeline = Timeline(None, load="open")
    # Due at 0, 1, 2 ...; each answers with three tokens, 1, 2 and 3 s later.
    for second in range(12):
        timeline.note_sent(sent(second, osl=3, at_s=float(second)))
        for index in range(max(0, second - 3), second):
            timeline.record(TokenEvent(index, float(second), 1, second - index == 3, 3))
    # At 3 s one has ended and 1, 2, 3 are in flight; at 4 s two and three; at 6 s four have ended, 4, 5, 6 are not.
    assert timeline.start_s == 6.0


def test_requests_in_flight_are_those_that_were_due_and_are_not_over():
    timeline = Timeline(None, load="open")
    for index, due_s in enumerate((0.0, 1.0, 4.0)):
        timeline.note_sent(sent(index, osl=1, at_s=due_s))
    timeline.record(TokenEvent(0, 2.0, 1, True, 2))
    timeline.record(TokenEvent(1, 3.0, 0, True, 1, failure=Failure(RequestStatus.STALLED, "silent")))
    assert timeline.in_flight(np.array([-1.0, 0.0, 1.5, 2.5, 3.5, 4.5])).tolist() == [0, 1, 2, 1, 0, 1]
    assert [trace.status for trace in timeline.traces.values()] == ["complete", "stalled", "cut"]
    assert (timeline.failed, timeline.failed_in_a_row) == (1, 1)


def test_gaps_are_those_of_one_request():
    timeline = Timeline(2)
    for index in range(2):
        timeline.note_sent(sent(index))
    for index, at_s in ((0, 1.0), (1, 1.5), (0, 2.0), (1, 4.0), (0, 5.0)):
        timeline.record(TokenEvent(index, at_s, 1, False, 2))
    assert sorted(timeline.gaps_s(0.0, 5.0)) == [1.0, 2.5, 3.0]
    assert sorted(timeline.gaps_s(2.0, 4.0)) == [2.5]  # begun before the window, ended in it


def test_an_end_without_a_token_moves_no_latency():
    timeline = Timeline(1)
    timeline.note_sent(sent(0, osl=2))
    for at_s, tokens, is_last in ((1.0, 1, False), (2.0, 1, False), (2.5, 0, True)):
        timeline.record(TokenEvent(0, at_s, tokens, is_last, 1))
    (trace,) = timeline.traces.values()
    assert (trace.is_complete, trace.last_token_s, trace.ended_s, trace.output_tokens) == (True, 2.0, 2.5, 2)
    assert list(timeline.token_times) == [1.0, 2.0]


def test_a_run_of_failures_is_one_of_requests_that_follow_each_other():
    timeline = Timeline(1)
    for index, failure in enumerate((FAILED, FAILED, None, FAILED)):
        timeline.note_sent(sent(index, osl=1))
        timeline.record(TokenEvent(index, float(index), 0 if failure else 1, True, 1, failure=failure))
    assert (timeline.failed, timeline.failed_in_a_row) == (3, 1)


def test_minutes_at_256_in_flight_stay_small_and_quick():
    # 100 steps a second for 300 s: 7.7 million tokens, 20 bytes each.
    timeline = Timeline(256)
    for index in range(256):
        timeline.note_sent(sent(index, isl=8, osl=10**6))
    steps = np.arange(1, 30001) / 100
    timeline.token_times.frombytes(np.repeat(steps, 256).tobytes())
    ones = np.ones(steps.size * 256, dtype=np.intc)
    timeline.token_counts.frombytes(ones.tobytes())
    timeline.running.frombytes((256 * ones).tobytes())
    timeline.contexts.frombytes(ones.tobytes())
    timeline.start_s = 0.01
    size = sum(len(column) * column.itemsize for column in (timeline.token_times, timeline.token_counts))
    assert size <= 12 * 7_680_000
    began_s = time.perf_counter()
    windows = [steady_state.find(timeline, 15.0, 10.0, index) for index in range(19)]
    # A window is some 400,000 tokens; a walk over all tokens for each would take minutes.
    assert time.perf_counter() - began_s < 10.0
    assert [window.reasons for window in windows if window is not None] == [()] * 19
    # What is asked while the engine waits is a search.
    began_s = time.perf_counter()
    assert timeline.edge_after(15.0, 30.0) == 30.0
    assert timeline.output_tokens(15.0, 30.0) == 1500 * 256
    assert time.perf_counter() - began_s < 0.5
