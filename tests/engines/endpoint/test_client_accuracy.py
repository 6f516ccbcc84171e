"""Stamps are those of the socket: held against what a server with a timetable has really sent, with bounds that a busy
machine keeps; `compare_clients` has the strict figures."""

import math

import numpy as np
import pytest
from tests.engines.endpoint.driving import Run, engine, requests, run
from tests.engines.endpoint.timed_server import Script, serving

from tokenwatt.load import Arrivals, Listed, Load

STREAMS, COUNT, OSL = 16, 32, 40


@pytest.fixture(scope="module")
def timed() -> tuple[Run, dict[int, list[float]]]:
    """A run of about 16 streams, and when each event of each request was sent, on the run's clock."""
    with serving(Script()) as served:  # the first token after 50 ms, then one every 5 ms: 0.245 s a request
        subject = engine(served.url)
        subject.load(STREAMS, 64)
        served.truth()
        load = Load.open(Listed(requests(COUNT, OSL)), Arrivals(STREAMS / 0.245, burstiness=math.inf))
        outcome = run(subject, load)
        report = subject.report(0.0, outcome.clock())
        assert report.client_busy is not None
        assert 0.0 < report.client_busy < 0.9
        assert report.client_lag_mean_s is not None
        assert 0.0 < report.client_lag_mean_s < 0.02
        truth = served.truth()
    origin_s = outcome.clock._origin_s
    return outcome, {one["prompt"][0]: [at_s - origin_s for at_s in one["sent_s"]] for one in truth}


def test_stamps_follow_what_was_sent(timed):
    outcome, truth = timed
    late_s = [
        event.at_s - sent_s
        for index, times in truth.items()
        for event, sent_s in zip([one for one in outcome.of(index) if one.tokens], times, strict=True)
    ]
    assert len(late_s) == COUNT * OSL
    assert min(late_s) > 0.0
    assert np.median(late_s) < 0.005


def test_gaps_are_those_of_the_server(timed):
    outcome, truth = timed
    seen_s = [np.diff([one.at_s for one in outcome.of(index) if one.tokens]) for index in truth]
    sent_s = [np.diff(times) for times in truth.values()]
    assert abs(np.median(np.concatenate(seen_s)) - np.median(np.concatenate(sent_s))) < 0.001


def test_requests_go_out_when_they_are_due(timed):
    outcome, _ = timed
    assert np.median([sent.sent_s - sent.due_s for sent in outcome.sent]) < 0.005
    gaps_s = np.diff([sent.due_s for sent in outcome.sent])
    assert np.allclose(gaps_s, 0.245 / STREAMS)
