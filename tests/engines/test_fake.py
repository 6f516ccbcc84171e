"""Engine `fake`: the script is kept to the instant."""

import itertools

import numpy as np
import pytest
from tests.factories import closed

from tokenwatt.engines import open_engine
from tokenwatt.errors import EngineError, UserError
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import Request


def spec(engine: str = "fake", **options) -> BenchSpec:
    return BenchSpec(engine=engine, workloads=("chat",), concurrency=(1,), options=options)


def requests(count: int, osl: int):
    return [Request(index, np.zeros(1, dtype=np.int32), osl) for index in range(count)]


class Instant:
    """A clock that stands wherever the engine last slept to."""

    def __init__(self, monkeypatch):
        self.now_s = 0.0
        monkeypatch.setattr("tokenwatt.engines.fake.time.sleep", self.sleep)

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_the_timeline_by_hand(monkeypatch):
    engine = open_engine(spec(ttft_s=1.0, tpot_s=0.25))
    events = list(engine.serve(closed(requests(3, osl=3), 2), Instant(monkeypatch)))
    # Slots 0 and 1 answer at 1.0, 1.25, 1.5; request 2 is sent at 1.5 and answers at 2.5, 2.75, 3.0.
    times = {0: [1.0, 1.25, 1.5], 1: [1.0, 1.25, 1.5], 2: [2.5, 2.75, 3.0]}
    for index, expected in times.items():
        assert [event.at_s for event in events if event.request_index == index] == expected
    assert [event.is_last for event in events if event.request_index == 2] == [False, False, True]
    assert [event.at_s for event in events] == sorted(event.at_s for event in events)


def test_the_rate_is_the_stated_one(monkeypatch):
    engine = open_engine(spec(ttft_s=0.1, tpot_s=0.02))
    stream = engine.serve(closed(requests(1000, osl=11), 4), Instant(monkeypatch))
    events = list(itertools.takewhile(lambda event: event.at_s <= 30.0, stream))
    # 4 slots x 11 tokens every 0.1 + 10 x 0.02 = 0.3 s: 100 full cycles in 30 s.
    assert len(events) == 4 * 11 * 100


def test_the_scripted_failure(monkeypatch):
    stream = open_engine(spec(fail_after_tokens=2)).serve(closed(requests(1, osl=5), 1), Instant(monkeypatch))
    with pytest.raises(EngineError, match="scripted failure after 2 tokens"):
        list(stream)


def test_wrong_names_and_options_are_answered():
    answer = (
        r"unknown engine 'natve' .did you mean 'native'..; known: fake, hf_transformers, native, openai_endpoint, v"
    )
    with pytest.raises(UserError, match=answer):
        open_engine(spec(engine="natve"))
    with pytest.raises(UserError, match="options of engine 'fake': unknown key 'speed'; allowed here: fail_after"):
        open_engine(spec(speed=9))
    with pytest.raises(UserError, match="tpot_s: input should be greater than 0, got -1.0"):
        open_engine(spec(tpot_s=-1.0))
