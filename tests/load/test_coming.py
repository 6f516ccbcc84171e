"""What a load says is coming is what it hands out, and asking changes nothing."""

import math
import pickle

import numpy as np

from tokenwatt.load import Arrivals, Listed, Load, Sent
from tokenwatt.workloads import Request


def source(count: int, osl: int = 10) -> Listed:
    return Listed(tuple(Request(i, np.arange(1, 5, dtype=np.int32), osl, conversation=i) for i in range(count)))


def drive(load: Load, asks: bool, steps: int = 200) -> list[tuple]:
    """A server that answers in 3 steps; what it was handed, with what was known to come just before."""
    taken, in_flight = [], {}
    load.on_sent = lambda sent: taken.append(sent)
    for now_s in range(steps):
        for index in [index for index, end_s in in_flight.items() if end_s <= now_s]:
            del in_flight[index]
            load.ended(index, now_s)
        coming = load.coming(4) if asks else []
        for place, request in enumerate(load.take(now_s)):
            if asks and place < 4:
                assert any(request is known for known in coming)
            in_flight[request.index] = now_s + 3
    return [tuple(sent) for sent in taken]


def test_asking_changes_nothing_and_what_comes_was_known():
    for make in (
        lambda: Load.closed(source(40), 4, in_mid_life=True, ramp_s=6.0),
        lambda: Load.open(source(40), Arrivals(0.5, burstiness=math.inf)),
        lambda: Load.offline(source(4), 4),
    ):
        asked, silent = drive(make(), asks=True), drive(make(), asks=False)
        assert asked == silent
        assert len(asked) in (4, 40)


def test_requests_in_mid_life_are_known_as_they_will_be_sent():
    # Of 4 slots the first has a quarter of its 10 tokens to come, round(2.5) = 2; the other 8 are in its prompt of 4.
    load = Load.closed(source(8), 4, in_mid_life=True)
    first = load.coming(1)[0]
    assert (len(first.prompt), first.max_tokens) == (12, 2)
    assert next(load.take(0.0)) is first


def test_a_load_that_was_asked_can_still_be_pickled():
    load = Load.closed(source(8), 2)
    load.coming(4)
    copy = pickle.loads(pickle.dumps(load))
    sent: list[Sent] = []
    copy.on_sent = sent.append
    assert [request.index for request in copy.take(1.0)] == [0, 1]
    assert [one.sent_s for one in sent] == [1.0, 1.0]
    assert not copy.has_follow_ups
