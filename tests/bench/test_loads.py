"""Kinds of load on the scripted engine, whose queue has a capacity in closed form."""

from __future__ import annotations

import pytest
from tests.bench.instant_bench import Listener, suite_of, use_jumping_clock, write_workload

from tokenwatt.analysis.results import results_of
from tokenwatt.bench import Run, run_suite
from tokenwatt.errors import UserError
from tokenwatt.record import Reason, RequestRecord, Result, Status
from tokenwatt.store import read

# Requests of 16 tokens: 0.05 + 15 x 0.01 = 0.2 s each. Two slots answer 10 a second.
SLOTS = {"options": {"ttft_s": 0.05, "tpot_s": 0.01, "slots": 2}}
OPEN = {**SLOTS, "concurrency": [], "burstiness": float("inf"), "interval_width": 0.0, "window_s": 20.0}
SLO = {"ttft_s": 0.1, "tpot_s": 0.02}


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Runs a bench of requests of 16 tokens, with changes."""
    use_jumping_clock(monkeypatch)
    workload = write_workload(tmp_path, 8, 16)

    def measured(finds_max_rate: bool = False, **changes) -> Run:
        suite = suite_of({"workloads": [workload], **changes})
        return run_suite(suite, tmp_path / "raw", Listener(), finds_max_rate=finds_max_rate)

    return measured


def test_an_open_loop_below_its_capacity_waits_for_nothing(measure):
    run = measure(**OPEN, rate=[5.0], slo=SLO, usd_per_gpu_h=2.0)
    (row,) = run.measurements
    assert (row.load, row.concurrency, row.request_rate_per_s) == ("open", None, 5.0)
    assert (row.is_stable, row.reasons) == (True, ())
    assert row.ttft_p99_9_s == pytest.approx(0.05)
    assert row.itl_mean_s == row.tpot_mean_s == pytest.approx(0.01)
    assert row.e2el_median_s == pytest.approx(0.2)
    # Little: 5 a second, 0.2 s each. Each request has its 16 tokens.
    assert row.in_flight == pytest.approx(1.0, rel=0.02)
    assert row.output_tokens == pytest.approx(5.0 * 16 * 20.0, rel=0.02)
    assert row.requests_judged == row.requests_within_slo == row.requests_completed
    assert row.send_lag_p99_s == pytest.approx(0.0, abs=1e-9)


def test_above_its_capacity_the_queue_grows(measure):
    (row,) = measure(**OPEN, rate=[12.0]).measurements
    # 12 come and 10 go a second: in 20 s 40 more wait, of 240 that came.
    assert Reason.QUEUE_GROWS in row.reasons
    assert row.is_stable is False
    assert row.output_tokens == pytest.approx(10.0 * 16 * 20.0, rel=0.02)


@pytest.mark.parametrize("rate", [25.0, 100.0])
def test_far_above_its_capacity_there_is_a_window_all_the_same(measure, rate):
    (row,) = measure(**{**OPEN, "window_s": 5.0}, rate=[rate]).measurements
    assert Reason.QUEUE_GROWS in row.reasons
    assert row.window_start_s is not None
    assert row.window_start_s >= 4 * 5.0  # never more ended than were in flight
    assert row.output_tokens == pytest.approx(10.0 * 16 * 5.0, rel=0.05)


def test_no_window_starts_in_a_ramp(measure):
    (row,) = measure(**OPEN, rate=[5.0], ramp_s=30.0).measurements
    assert row.window_start_s is not None
    assert row.window_start_s >= 30.0
    assert row.in_flight == pytest.approx(1.0, rel=0.02)


def test_poisson_arrivals_that_an_engine_can_answer_are_no_growing_queue(measure):
    rows = [measure(**{**OPEN, "burstiness": 1.0, "seed": seed}, rate=[6.0]).measurements[0] for seed in range(20)]
    assert not any(Reason.QUEUE_GROWS in row.reasons for row in rows)


def test_all_at_once_is_one_window_from_the_first_to_the_last(measure):
    run = measure(**SLOTS, concurrency=[], requests_at_once=[50])
    assert len(run.measurements) == 6  # a job is done again until its rate is known: here it is always the same
    row = run.measurements[-1]
    assert (row.load, row.requests_at_once, row.concurrency) == ("offline", 50, None)
    # 25 rounds of two, 0.2 s each.
    assert (row.window_start_s, row.window_s) == (pytest.approx(25.0), pytest.approx(5.0))
    assert (row.requests_completed, row.output_tokens) == (50, 800)
    assert row.ttft_median_s == pytest.approx(12 * 0.2 + 0.05)  # of rounds 0 to 24, the one in the middle
    assert row.reasons == ()  # as long as the windows that were asked for


def test_a_closed_loop_may_begin_slowly(measure):
    run = measure(**SLOTS, concurrency=[2], ramp_s=4.0, interval_width=0.0)
    (row,) = run.measurements
    assert row.window_start_s is not None
    assert row.window_start_s >= 4.0
    assert row.running == pytest.approx(2.0)
    table = read(run.folder, RequestRecord)
    assert sorted(table["due_s"])[:2] == [0.0, pytest.approx(0.2)]
    assert 2.0 in table["due_s"].round(9).tolist()  # the second slot, half of the ramp later
    assert not table["is_ramp"].any()  # whole requests alone


def test_the_largest_rate_is_the_capacity(measure):
    run = measure(finds_max_rate=True, **OPEN, rate=[3.0], slo=SLO)
    (found,) = [result for result in run.results if result.method == "bisection"]
    assert found.quantity == "max_request_rate_within_slo"
    assert 10.0 / 1.05 <= found.mean <= 10.0
    assert found.request_rate_per_s == found.mean
    assert found.high is not None
    assert 10.0 < found.high <= 10.0 * 1.05
    stored = read(run.folder, Result)
    assert stored.loc[stored["method"] == "bisection", "mean"].tolist() == [found.mean]
    assert "largest rate with 99 % of requests within ttft 0.1 s, tpot 0.02 s" in run.remarks[0]


def test_where_no_rate_keeps_the_level_the_search_says_so(measure):
    run = measure(finds_max_rate=True, **OPEN, rate=[1.0], slo={"ttft_s": 0.01})
    assert all(result.method != "bisection" for result in run.results)
    assert "no rate keeps 99 % of requests within ttft 0.01 s" in run.remarks[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"concurrency": [2]}, r"bench 0 of suite 's' has no rate and no slo"),
        ({**OPEN, "rate": [1.0, 2.0], "slo": SLO}, r"has rate = \[1.0, 2.0\] and a slo"),
    ],
)
def test_a_search_needs_a_level_and_a_beginning(measure, changes, message):
    with pytest.raises(UserError, match=message):
        measure(finds_max_rate=True, **changes)


def test_a_workload_without_times_is_not_replayed(measure):
    with pytest.raises(UserError, match="has no timetable to replay: only one with .trace. has"):
        measure(concurrency=[], replay_speed=[1.0])


def test_a_replay_keeps_the_times_of_its_trace(measure, tmp_path):
    (tmp_path / "trace.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        + "".join(f"2024-05-10 00:00:{second:02d}.000000,8,16\n" for second in range(0, 60, 2))
    )
    (tmp_path / "replay.toml").write_text(
        'name = "replay"\ndescription = "by hand"\n[trace]\nformat = "azure"\npath = "trace.csv"\n'
    )
    asked = {"replay_speed": [4.0], "workloads": [str(tmp_path / "replay.toml")], "interval_width": 0.0}
    run = measure(**SLOTS, concurrency=[], **asked)
    table = read(run.folder, RequestRecord).sort_values("request_index")
    assert len(table) > 12  # 0.2 s and a window of 6 s
    assert table["due_s"].tolist() == pytest.approx([0.5 * place for place in range(len(table))])  # 2 s apart, x 4
    assert (table["sent_s"] == table["due_s"]).all()
    (row, *_) = run.measurements
    assert (row.load, row.replay_speed) == ("replay", 4.0)
    assert row.window_start_s == pytest.approx(0.2)  # when the first request has ended


def test_no_window_of_a_replay_ends_after_its_last_arrival(measure, tmp_path):
    (tmp_path / "trace.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        + "".join(f"2024-05-10 00:00:{second:02d}.000000,8,2000\n" for second in range(0, 60, 2))
    )
    (tmp_path / "replay.toml").write_text(
        'name = "replay"\ndescription = "by hand"\n[trace]\nformat = "azure"\npath = "trace.csv"\n'
    )
    # 2000 tokens take 20 s: answers go on for 20 s after the last arrival, at 58 s.
    asked = {"replay_speed": [1.0], "workloads": [str(tmp_path / "replay.toml")], "window_s": 7.0, "budget_s": 28.0}
    run = measure(concurrency=[], options={"ttft_s": 0.05, "tpot_s": 0.01}, **asked)
    assert run.measurements
    for row in run.measurements:
        assert row.status is Status.OK
        assert row.window_s is not None
        assert row.window_start_s is not None
        assert row.window_start_s + row.window_s <= 58.0


def test_results_tell_the_loads_apart(measure):
    run = measure(**OPEN, rate=[2.0, 4.0])
    found = [result for result in run.results if result.quantity == "output_tokens_per_s"]
    assert [result.request_rate_per_s for result in found] == [2.0, 4.0]
    assert results_of(read(run.folder, type(run.measurements[0])))
