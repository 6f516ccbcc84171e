"""guidellm reports as rows: real files."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest
from tests.imports.speeds import output_tokens_per_s

from tokenwatt import imports
from tokenwatt.errors import UserError

CONCURRENT, POISSON = "guidellm_concurrent.json", "guidellm_poisson.json"


def test_a_benchmark_is_a_row_in_seconds(files):
    (row,) = imports.read(files / CONCURRENT).measurements
    assert (row.imported_from, row.model, row.load, row.concurrency) == ("guidellm 0.8.1", "tiny", "closed", 4)
    assert (row.requests_completed, row.input_tokens, row.output_tokens) == (12, 12 * 64, 12 * 16)
    assert row.window_s == 0.4874386787414551
    assert row.ttft_median_s == pytest.approx(76.45678520202637e-3)
    assert row.e2el_median_s == pytest.approx(0.12671184539794922)  # already in seconds
    assert row.ramp_s == 0.0
    assert row.itl_median_s is None
    assert any("itl is unknown" in loss for loss in row.import_losses)


def test_tpot_counts_each_request_once(files):
    (row,) = imports.read(files / CONCURRENT).measurements
    # Of the 12 sorted values the 6th and 7th are 0.02506573994954427 and 0.0270843505859375 ms; the file's own median,
    # weighted by tokens, is the latter.
    assert row.tpot_median_s == pytest.approx((0.02506573994954427 + 0.0270843505859375) / 2 * 1e-3)


def test_a_sample_of_requests_leaves_tpot_as_the_tool_has_it(changed):
    path = changed(CONCURRENT, lambda document: document["benchmarks"][0]["requests"]["successful"].pop())
    imported = imports.read(path)
    assert imported.measurements[0].tpot_median_s == pytest.approx(0.0270843505859375e-3)
    assert len(imported.requests) == 11
    assert any("the file holds a sample" in loss for loss in imported.measurements[0].import_losses)


def test_a_poisson_load_has_due_times(files):
    imported = imports.read(files / POISSON)
    (row,) = imported.measurements
    assert (row.load, row.request_rate_per_s, row.burstiness) == ("open", 8.0, 1.0)
    assert output_tokens_per_s(row) == pytest.approx(160 / 1.2176239490509033)
    assert row.run_began_at == datetime.fromtimestamp(1795740078.5689104, UTC)
    first, second = imported.requests[:2]
    # Sent at .5689104 and due at .5652273; the second sent at .6968215 and due at .6927347, first token at .74692.
    assert first.sent_s == 0.0
    assert first.due_s == pytest.approx(-0.0036831, abs=1e-6)
    assert second.due_s == pytest.approx(0.1238243, abs=1e-6)
    assert second.first_token_s == pytest.approx(0.1780096, abs=1e-6)


def test_each_benchmark_of_a_report_is_a_row_of_its_own(changed):
    def double(document):
        document["benchmarks"].append({**document["benchmarks"][0]})

    rows = imports.read(changed(CONCURRENT, double)).measurements
    assert [row.measurement_id.rpartition("/")[2] for row in rows] == ["0", "1"]
    assert len({row.point_id for row in rows}) == 2


def test_requests_in_flight_at_the_end_are_cut_and_not_failed(changed):
    def cut_two(document):
        benchmark = document["benchmarks"][0]
        answered = benchmark["requests"]["successful"]
        benchmark["requests"]["incomplete"] = [answered.pop(), answered.pop()]
        benchmark["requests"]["errored"] = [answered.pop()]
        benchmark["metrics"]["request_totals"].update(successful=9, errored=1, incomplete=2)

    imported = imports.read(changed(CONCURRENT, cut_two))
    (row,) = imported.measurements
    assert (row.requests_completed, row.requests_failed) == (9, 1)
    assert "2 requests were in flight at its end, neither complete nor failed" in row.import_losses
    statuses = Counter(request.status.value for request in imported.requests)
    assert statuses == {"complete": 9, "failed": 1, "cut": 2}


def test_a_benchmark_without_answers_has_no_zeros(changed):
    def fail_all(document):
        benchmark = document["benchmarks"][0]
        errored = benchmark["requests"]["successful"]
        for request in errored:
            request["info"]["error"] = "connection refused"
        benchmark["requests"].update(successful=[], errored=errored)
        benchmark["metrics"]["request_totals"].update(successful=0, errored=12)

    imported = imports.read(changed(CONCURRENT, fail_all))
    (row,) = imported.measurements
    assert (row.status, row.detail, row.ttft_mean_s) == ("failed", "connection refused", None)
    assert {request.status for request in imported.requests} == {"failed"}


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda d: d["metadata"].update(version=1), r"\$\.metadata\.version: found 1, expected 2"),
        (lambda d: d["benchmarks"][0].pop("duration"), r"\$\.benchmarks\[0\]\.duration: is missing"),
        (
            lambda d: d["benchmarks"][0].update(start_time=1795740078568.9),
            r"\$\.benchmarks\[0\]\.start_time: found 1795740078568\.9, expected seconds since 1970",
        ),
        (
            lambda d: d["benchmarks"][0]["metrics"]["time_to_first_token_ms"]["successful"].update(median=-1.0),
            r"time_to_first_token_ms\.successful\.median: found -1\.0, expected greater than or equal to 0",
        ),
        (lambda d: d.update(benchmarks=[]), r"\$\.benchmarks: found a list of 0"),
        (lambda d: d["benchmarks"][0]["config"]["strategy"].update(type_="odd"), "found type_ 'odd', expected"),
        (
            lambda d: d["benchmarks"][0]["metrics"]["request_latency"]["successful"].update(mean=[]),
            r"\$\.benchmarks\[0\]\.metrics\.request_latency\.successful\.mean: found a list of 0, expected",
        ),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(changed, do, message):
    with pytest.raises(UserError, match=message):
        imports.read(changed(CONCURRENT, do))
