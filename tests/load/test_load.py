"""Load: who is sent when, by hand; and what holds for any engine, by a simulated one."""

from __future__ import annotations

import heapq
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwatt.load import Arrivals, Listed, Load, Sent
from tokenwatt.workloads import FollowUp, Request


@dataclass(frozen=True, slots=True)
class Talks:
    """Conversations with as many turns as `turns` says, each `think_s` after the answer; all with 8 in and 4 out."""

    turns: tuple[int, ...]
    think_s: float = 0.0

    @property
    def has_follow_ups(self) -> bool:
        return max(self.turns) > 1

    def opening(self, place: int) -> Request | None:
        return request_of(place, 0) if place < len(self.turns) else None

    def follow_up(self, request: Request, output: Sequence[int]) -> FollowUp | None:
        if request.turn + 1 >= self.turns[request.conversation]:
            return None
        follow_up = request_of(request.conversation, request.turn + 1)
        return FollowUp(replace(follow_up, prompt=np.array([*request.prompt, *output], np.int32)), self.think_s)


def request_of(conversation: int, turn: int) -> Request:
    return Request(conversation * 100 + turn, np.arange(8, dtype=np.int32), 4, conversation=conversation, turn=turn)


def one_turn(count: int) -> Talks:
    return Talks((1,) * count)


def taken(load: Load, now_s: float) -> list[int]:
    return [request.index for request in load.take(now_s)]


def test_a_closed_loop_keeps_so_many_going_and_begins_another_when_one_ends():
    load = Load.closed(one_turn(5), concurrency=2)
    assert load.next_s is None
    assert taken(load, 10.0) == [0, 100]
    assert taken(load, 11.0) == []
    assert load.next_s is None
    load.ended(100, 12.0)
    # It is due at the moment of the end, not when the engine next looks.
    assert load.next_s == 12.0
    assert taken(load, 12.5) == [200]


def test_a_closed_loop_may_begin_evenly_over_a_ramp():
    load = Load.closed(one_turn(9), concurrency=4, ramp_s=8.0)
    assert taken(load, 100.0) == [0]
    assert load.next_s == 102.0
    assert taken(load, 105.9) == [100, 200]
    assert taken(load, 106.0) == [300]
    assert load.next_s is None


def test_an_open_loop_sends_at_its_times_whatever_the_engine_does():
    load = Load.open(one_turn(9), Arrivals(rate_per_s=2.0, burstiness=math.inf))
    assert taken(load, 50.0) == []
    assert load.next_s == 50.5
    assert taken(load, 51.7) == [0, 100, 200]
    load.ended(0, 51.8)
    assert load.next_s == 52.0
    assert taken(load, 51.9) == []


def test_lateness_of_the_engine_does_not_move_what_is_due():
    heard: list[Sent] = []
    load = Load.open(one_turn(9), Arrivals(rate_per_s=2.0, burstiness=math.inf))
    load.on_sent = heard.append
    taken(load, 0.0)
    taken(load, 1.7)
    assert heard == [Sent(0, 8, 4, 0.5, 1.7, False, 0, 0), Sent(100, 8, 4, 1.0, 1.7, False, 1, 0),
                     Sent(200, 8, 4, 1.5, 1.7, False, 2, 0)]  # fmt: skip


def test_offline_sends_all_at_once_and_is_over_when_they_are():
    load = Load.offline(one_turn(9), conversations=3)
    assert taken(load, 7.0) == [0, 100, 200]
    load.ended(0, 8.0)
    assert load.next_s is None
    assert taken(load, 99.0) == []


def test_a_replay_sends_at_the_instants_of_a_trace():
    load = Load.replay(one_turn(3), [0.0, 4.0, 4.0], speed=2.0)
    assert taken(load, 30.0) == [0]
    assert load.next_s == 32.0
    assert taken(load, 32.0) == [100, 200]
    assert load.next_s is None


def test_a_replay_ends_with_its_source_or_its_timetable_whichever_is_shorter():
    assert taken(Load.replay(one_turn(2), [0.0, 0.0, 0.0]), 1.0) == [0, 100]
    assert taken(Load.replay(one_turn(3), [0.0, 0.0]), 1.0) == [0, 100]


def test_a_conversation_goes_on_after_the_answer_and_a_time_to_think():
    load = Load.closed(Talks((2, 1), think_s=3.0), concurrency=1)
    assert taken(load, 0.0) == [0]
    load.ended(0, 5.0, output=(70, 71))
    assert load.next_s == 8.0
    assert taken(load, 7.9) == []
    (second,) = load.take(8.0)
    assert (second.conversation, second.turn, second.prompt.tolist()) == (0, 1, [*range(8), 70, 71])
    load.ended(second.index, 9.0)
    assert load.next_s == 9.0
    assert taken(load, 9.0) == [100]


def test_a_conversation_ends_with_a_failure_and_its_slot_goes_on():
    load = Load.closed(Talks((3, 1)), concurrency=1)
    taken(load, 0.0)
    load.ended(0, 1.0, failed=True)
    assert taken(load, 1.0) == [100]
    open_load = Load.offline(Talks((3,)), conversations=1)
    taken(open_load, 0.0)
    open_load.ended(0, 1.0, failed=True)
    assert open_load.next_s is None


def test_a_load_is_over_when_its_source_is():
    load = Load.closed(one_turn(3), concurrency=2)
    taken(load, 0.0)
    load.ended(0, 1.0)
    load.ended(100, 1.0)
    assert taken(load, 1.0) == [200]
    load.ended(200, 2.0)
    assert load.next_s is None
    assert taken(load, 3.0) == []


def test_a_source_without_anything_gives_nothing():
    load = Load.open(Listed(()), Arrivals(rate_per_s=1.0))
    assert taken(load, 0.0) == []
    assert taken(load, 100.0) == []
    assert load.next_s is None


def test_an_answer_to_nobody_is_a_mistake_of_the_engine():
    load = Load.closed(one_turn(3), concurrency=1)
    with pytest.raises(KeyError):
        load.ended(0, 1.0)


def test_slots_begin_in_mid_life_at_ages_spread_evenly():
    # Budgets of 4 in 4 slots: 1, 2, 3 and 4 tokens are to come, and what was said is in the prompt.
    heard: list[Sent] = []
    load = Load.closed(one_turn(9), concurrency=4, in_mid_life=True)
    load.on_sent = heard.append
    requests = list(load.take(0.0))
    assert [(len(request.prompt), request.max_tokens) for request in requests] == [(11, 1), (10, 2), (9, 3), (8, 4)]
    assert [sent.is_ramp for sent in heard] == [True, True, True, False]
    load.ended(0, 1.0)
    (whole,) = load.take(1.0)
    assert (len(whole.prompt), whole.max_tokens) == (8, 4)
    assert not heard[-1].is_ramp


def test_only_openings_are_in_mid_life():
    # Slot 1 of 2 begins at 5 s; before it the first conversation has its second turn, which is a whole one.
    load = Load.closed(Talks((2, 1, 1, 1)), concurrency=4, in_mid_life=True, ramp_s=20.0)
    (first,) = load.take(0.0)
    assert first.max_tokens == 1
    load.ended(0, 1.0, output=(7,))
    (second,) = load.take(1.0)
    assert (second.turn, second.max_tokens, len(second.prompt)) == (1, 4, 12)
    (third,) = load.take(5.0)
    assert (third.conversation, third.max_tokens) == (1, 2)


@dataclass(slots=True)
class Simulation:
    """An engine that answers each request after a time of its own, and looks for new ones only now and then."""

    load: Load
    turns: tuple[int, ...]
    durations_s: tuple[float, ...]
    pause_s: float
    fails_every: int
    now_s: float = 5.0
    handed_out: list[tuple[Request, float]] = field(default_factory=list)
    ended_at_s: dict[int, float] = field(default_factory=dict)
    most_going: int = 0
    """Most conversations between their first request and the end of their last, thinking ones counted."""
    _going: set[int] = field(default_factory=set)
    _running: list[tuple[float, int]] = field(default_factory=list)

    def step(self) -> bool:
        """Take what is due and end what is over; False when there is nothing left to do."""
        for request in self.load.take(self.now_s):
            duration_s = self.durations_s[len(self.handed_out) % len(self.durations_s)]
            self.handed_out.append((request, self.now_s))
            self._going.add(request.conversation)
            heapq.heappush(self._running, (self.now_s + duration_s, request.index))
        self.most_going = max(self.most_going, len(self._going))
        next_end_s = self._running[0][0] if self._running else math.inf
        next_s = min(next_end_s, math.inf if self.load.next_s is None else self.load.next_s)
        if math.isinf(next_s):
            return False
        self.now_s = max(self.now_s, next_s) + self.pause_s
        while self._running and self._running[0][0] <= self.now_s:
            at_s, index = heapq.heappop(self._running)
            self.ended_at_s[index] = at_s
            failed = len(self.ended_at_s) % self.fails_every == 0
            self.load.ended(index, at_s, output=(1, 2, 3, 4), failed=failed)
            conversation, turn = divmod(index, 100)
            if failed or turn + 1 == self.turns[conversation]:
                self._going.remove(conversation)
        return True


times = st.floats(0.0, 20.0, allow_nan=False)
talks = st.builds(Talks, st.lists(st.integers(1, 4), max_size=12).map(tuple), st.sampled_from([0.0, 0.5, 7.0]))


@st.composite
def loads(draw) -> tuple[Talks, Load, int | None]:
    """A source, a load of it and how many conversations may go on at once."""
    source = draw(talks)
    kind = draw(st.sampled_from(["closed", "open", "offline", "replay"]))
    concurrency = draw(st.integers(1, 6))
    if kind == "closed":
        return source, Load.closed(source, concurrency, draw(st.booleans()), draw(times)), concurrency
    if kind == "open":
        arrivals = Arrivals(draw(st.floats(0.1, 50.0)), draw(st.sampled_from([0.3, 1.0, math.inf])), draw(times))
        return source, Load.open(source, arrivals), None
    if kind == "offline":
        return source, Load.offline(source, draw(st.integers(0, 15))), None
    return source, Load.replay(source, sorted(draw(st.lists(times, max_size=15))), draw(st.floats(0.5, 4.0))), None


@settings(max_examples=150, deadline=None)
@given(
    given_load=loads(),
    durations_s=st.lists(times, min_size=1, max_size=5).map(tuple),
    pause_s=st.sampled_from([0.0, 0.25, 3.0]),
    fails_every=st.sampled_from([1, 3, 10**6]),
    pickled_after=st.integers(0, 20),
)
def test_any_engine_gets_every_request_once_and_never_before_it_is_due(
    given_load, durations_s, pause_s, fails_every, pickled_after
):
    source, load, concurrency = given_load
    heard: list[Sent] = []
    load.on_sent = heard.append
    engine = Simulation(load, source.turns, durations_s, pause_s, fails_every)
    for steps in range(10_000):
        if steps == pickled_after:
            load.on_sent = print
            engine.load = pickle.loads(pickle.dumps(load))
            engine.load.on_sent = heard.append
        if not engine.step():
            break
    indices = [request.index for request, _ in engine.handed_out]
    assert len(set(indices)) == len(indices)
    assert [(sent.request_index, sent.sent_s) for sent in heard] == [
        (request.index, at_s) for request, at_s in engine.handed_out
    ]
    assert all(sent.due_s <= sent.sent_s for sent in heard)
    assert set(engine.ended_at_s) == set(indices)
    if concurrency is not None:
        assert engine.most_going <= concurrency
        assert {request.conversation for request, _ in engine.handed_out} == set(range(len(source.turns)))
    for sent in heard:
        # A later turn is due its thinking time after the answer before it, which did not fail.
        if sent.turn > 0:
            assert sent.due_s == engine.ended_at_s[sent.request_index - 1] + source.think_s
    if fails_every == 10**6:
        begun = {request.conversation for request, _ in engine.handed_out}
        assert len(indices) == sum(source.turns[conversation] for conversation in begun)


def test_a_load_at_rest_can_be_pickled_before_its_first_take():
    load = pickle.loads(pickle.dumps(Load.open(one_turn(3), Arrivals(rate_per_s=1.0))))
    same = Load.open(one_turn(3), Arrivals(rate_per_s=1.0))
    assert taken(load, 0.0) == taken(same, 0.0) == []
    assert load.next_s == same.next_s


def test_taking_is_lazy_and_asks_nothing_twice():
    load = Load.offline(one_turn(4), conversations=4)
    assert [request.index for request in islice(load.take(0.0), 2)] == [0, 100]
    assert taken(load, 0.0) == [200, 300]
