"""AIPerf exports as rows: real files, with the requests beside them and without."""

from __future__ import annotations

import pytest
from tests.imports.speeds import output_tokens_per_s

from tokenwatt import imports
from tokenwatt.errors import UserError

CLOSED, RATE = "aiperf_closed/profile_export_aiperf.json", "aiperf_rate/profile_export_aiperf.json"


def test_an_export_is_a_row_in_seconds(files):
    (row,) = imports.read(files / CLOSED).measurements
    assert (row.imported_from, row.model) == ("AIPerf 0.13.0", "tiny")
    assert (row.load, row.concurrency, row.requests_completed, row.requests_failed) == ("closed", 4, 20, 0)
    assert row.window_s == 1.077953536
    assert row.ttft_median_s == pytest.approx(0.147524553)
    assert row.tpot_mean_s == pytest.approx(0.970410756570513e-3)  # inter_token_latency
    assert row.itl_mean_s == pytest.approx(3.3699551333333333e-3)  # inter_chunk_latency
    assert row.e2el_p99_s == pytest.approx(0.48210934399)


def test_output_tokens_are_the_servers_and_the_loss_says_what_aiperf_counts(files):
    (row,) = imports.read(files / CLOSED).measurements
    # 20 requests of 16 tokens by the server's usage; tokenising the text again gives 235.
    assert (row.output_tokens, row.osl) == (320, 16.0)
    assert (row.input_tokens, row.isl) == (1280, 64.0)
    assert any("AIPerf itself counts 235" in loss for loss in row.import_losses)


def test_without_usage_its_own_count_is_taken_and_said(changed):
    (row,) = imports.read(changed(CLOSED, lambda d: d.pop("usage_completion_tokens"))).measurements
    assert row.output_tokens == 235
    assert any("the server told no usage" in loss for loss in row.import_losses)


def test_requests_come_from_the_file_beside_it_and_give_what_the_export_lacks(files):
    imported = imports.read(files / CLOSED)
    (row,) = imported.measurements
    # p99.9 of 20 TTFTs lies at 18.981: the largest two are 0.440531032 and 0.457326988 s.
    assert row.ttft_p99_9_s == pytest.approx(0.440531032 + 0.981 * (0.457326988 - 0.440531032))
    first = imported.requests[0]
    assert (len(imported.requests), first.isl, first.output_tokens, first.status) == (20, 64, 16, "complete")
    # The first was sent at ...120842930985 ns, the second at ...120846822973 ns.
    assert (first.sent_s, imported.requests[1].sent_s) == (0.0, pytest.approx(0.003891988))
    assert first.first_token_s == pytest.approx(0.107653111)


def test_an_export_with_a_rate_alone(files):
    imported = imports.read(files / RATE)
    (row,) = imported.measurements
    assert (row.load, row.request_rate_per_s, row.burstiness) == ("open", 8.0, 1.0)
    assert (row.ttft_p99_9_s, imported.requests) == (None, [])
    assert output_tokens_per_s(row) == pytest.approx(160 / 0.8843095040000001)
    assert any("--export-level records" in loss for loss in row.import_losses)


def test_requests_of_another_run_are_refused(changed):
    path = changed(CLOSED, lambda document: document["request_count"].update(avg=19.0))
    with pytest.raises(UserError, match=r"holds 20 answered requests, .* says 19; they are of two runs"):
        imports.read(path)


def test_a_half_written_file_of_requests_is_named_by_its_line(changed):
    records = changed(CLOSED, lambda document: None).with_name("profile_export.jsonl")
    records.write_text(records.read_text(encoding="utf-8")[:-400], encoding="utf-8")
    with pytest.raises(UserError, match=r"profile_export\.jsonl: line 20: not complete JSON"):
        imports.read(records.with_name("profile_export_aiperf.json"))


def test_a_request_that_failed_has_the_status_of_its_code(changed):
    def fail_one(document):
        document["request_count"]["avg"], document["error_request_count"] = 19.0, {"unit": "requests", "avg": 1.0}
        document["usage_completion_tokens"]["count"] = 19

    path = changed(CLOSED, fail_one)
    records = path.with_name("profile_export.jsonl")
    first, *others = records.read_text(encoding="utf-8").splitlines()
    failed = first[:-1] + ', "error": {"code": 503, "type": "HTTP", "message": "no room"}}'
    records.write_text("\n".join([failed, *others]), encoding="utf-8")
    imported = imports.read(path)
    assert imported.measurements[0].requests_failed == 1
    assert (imported.requests[0].status, imported.requests[0].detail) == ("overloaded", "no room")


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda d: d.pop("benchmark_duration"), r"\$\.benchmark_duration: is missing"),
        (lambda d: d["request_latency"].update(unit="h"), r"\$\.request_latency\.unit: found 'h', expected 'ns', 'us'"),
        (lambda d: d["time_to_first_token"].update(p50="x"), r"\$\.time_to_first_token\.p50: found 'x'"),
        (
            lambda d: d["request_latency"].update(avg=-1.0),
            r"\$\.request_latency\.avg: found -1\.0, expected greater than",
        ),
        (lambda d: d.update(start_time="0001-01-01T00:00+14:00"), r"\$\.start_time: found '0001-.*', expected an ISO"),
        (lambda d: d["input_config"]["phases"][0].update(type="user_centric"), "found type 'user_centric', expected"),
        (lambda d: d["input_config"]["models"].update(items=[]), r"\$\.input_config\.models\.items: found a list of 0"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(changed, do, message):
    with pytest.raises(UserError, match=message) as found:
        imports.read(changed(CLOSED, do))
    assert "\n" not in str(found.value)
