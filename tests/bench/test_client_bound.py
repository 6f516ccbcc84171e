"""Whose speed it was: the engine's, or that of whoever asked and listened."""

from __future__ import annotations

import pytest
from tests.factories import measurement

from tokenwatt.bench import Run
from tokenwatt.engines.protocol import EngineReport
from tokenwatt.record import Reason
from tokenwatt.rows import is_client_bound
from tokenwatt.steady_state import Timeline


@pytest.mark.parametrize(
    ("told", "lag_s", "send_lag_s", "is_bound"),
    [
        (EngineReport(), 0.0005, 0.0, False),  # 5 % of a TPOT of 10 ms
        (EngineReport(), 0.002, 0.0, True),
        (EngineReport(), 0.0, 0.05, False),  # no client: requests wait for an engine of this process
        (EngineReport(client_busy=0.3), 0.0, 0.05, True),  # half of a TTFT of 0.1 s
        (EngineReport(client_busy=0.3), 0.0, 0.005, False),
        (EngineReport(client_busy=0.9), 0.0, 0.0, True),
    ],
)
def test_a_speed_is_the_client_s_where_it_listens_asks_or_works_too_slowly(told, lag_s, send_lag_s, is_bound):
    latencies = {"tpot_median_s": 0.01, "ttft_median_s": 0.1}
    assert is_client_bound(told, lag_s, send_lag_s, Timeline(4), latencies) is is_bound


@pytest.mark.parametrize(("busy", "has_failed"), [(0.9, True), (None, False)])
def test_a_run_whose_speed_is_that_of_our_client_has_failed(tmp_path, busy, has_failed):
    row = measurement(reasons=(Reason.CLIENT_BOUND,), is_stable=False, client_busy=busy)
    assert Run("r", tmp_path, [row]).has_failed is has_failed
