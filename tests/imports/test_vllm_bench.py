"""`vllm bench serve` results as rows: real files, and what their edges say."""

from __future__ import annotations

import pytest
from tests.imports.speeds import output_tokens_per_s

from tokenwatt import imports
from tokenwatt.errors import UserError
from tokenwatt.record import EnergyStatus, Reason, RequestStatus, Status

DETAILED, RATE = "vllm_bench_detailed.json", "vllm_bench_rate.json"


def test_a_detailed_file_is_a_row_in_seconds(files):
    (row,) = imports.read(files / DETAILED).measurements
    assert (row.imported_from, row.model, row.engine) == ("vllm bench", "tiny", "unknown")
    assert (row.load, row.concurrency, row.request_rate_per_s, row.burstiness) == ("closed", 4, None, None)
    assert (row.requests_completed, row.requests_failed) == (20, 0)
    # 1,295 prompt tokens and 320 generated ones in 0.42308869599946775 s: 756.34 tokens/s, as the file says.
    assert (row.input_tokens, row.output_tokens) == (1295, 320)
    assert output_tokens_per_s(row) == pytest.approx(756.3425896881031)
    assert (row.isl, row.osl) == (1295 / 20, 16.0)
    # The 10th and 11th of the 20 sorted TTFTs are 0.031977377 and 0.033852881 s; their mean is the median.
    assert row.ttft_median_s == pytest.approx((0.031977377002476715 + 0.03385288100253092) / 2)
    assert row.itl_median_s == pytest.approx(2.9683070024475455e-3)
    assert row.e2el_mean_s == pytest.approx(83.80279965022055e-3)
    assert row.energy_status is EnergyStatus.NO_METER


def test_percentiles_that_the_file_lacks_come_from_its_single_values(files):
    (row,) = imports.read(files / DETAILED).measurements
    # The file has p99 alone. p90 of 20 values lies at 0.9 x 19 = 17.1: between the 18th and the 19th sorted TTFT,
    # 0.05903917500108946 and 0.05915430500318598 s, a tenth of the way.
    assert row.ttft_p90_s == pytest.approx(0.05903917500108946 + 0.1 * (0.05915430500318598 - 0.05903917500108946))
    # The file's p99 of TPOT lies at 18.81, p99.9 at 18.981, both on the line between the largest two.
    assert row.tpot_p99_s == pytest.approx(4.305315105331828e-3)
    assert row.tpot_p99_9_s == pytest.approx(4.349141470479663e-3)


def test_requests_are_on_a_clock_that_begins_with_the_first(files):
    imported = imports.read(files / DETAILED)
    first, second = imported.requests[:2]
    # Sent at 62506.00693167 and 62506.007174981 of the client's clock.
    assert first.sent_s == 0.0
    assert second.sent_s == pytest.approx(0.000243311, abs=1e-9)
    assert first.first_token_s == pytest.approx(0.05997891999868443)
    assert first.last_token_s == pytest.approx(0.1103177679979126)
    assert (first.isl, first.output_tokens, first.osl) == (65, 16, None)
    assert {request.status for request in imported.requests} == {RequestStatus.COMPLETE}
    assert {request.due_s - request.sent_s for request in imported.requests} == {0.0}  # a closed load


def test_a_summary_with_a_rate_is_an_open_load(files):
    imported = imports.read(files / RATE)
    (row,) = imported.measurements
    assert (row.load, row.request_rate_per_s, row.burstiness, row.concurrency) == ("open", 6.0, 2.0, None)
    assert row.ttft_p99_9_s == pytest.approx(24.6752300824519e-3)
    assert (row.ttft_p99_s, row.tpot_p99_s) == (None, None)
    # Latencies are in every file: the largest two of the 12 are 0.070767607 and 0.072723041; p99 lies at 10.89.
    assert row.e2el_p99_s == pytest.approx(0.07076760700147133 + 0.89 * (0.07272304099751636 - 0.07076760700147133))
    assert imported.requests == []
    assert any("--save-detailed" in loss for loss in row.import_losses)
    assert "latencies begin when a request was sent, not when it was due" in row.import_losses


def test_nothing_is_said_of_this_machine(files):
    (row,) = imports.read(files / DETAILED).measurements
    unknown = ("device", "gpu_name", "gpu_count", "cpu_name", "cpu_count", "memory_bytes", "os_name", "python_version")
    unknown += ("torch_version", "git_commit", "workload_sha256", "engine_version", "weights_source", "seed", "tp")
    assert {name: getattr(row, name) for name in unknown} == dict.fromkeys(unknown)
    assert (row.is_stable, row.reasons, row.run_began_at, row.ramp_s) == (None, (), None, None)
    assert "neither the file nor --gpus says how many GPUs computed" in row.import_losses


def test_what_the_importer_knows_fills_what_the_file_lacks(files):
    given = imports.Given(gpu_name="NVIDIA H200", gpu_count=2, usd_per_gpu_h=3.5, engine="vllm")
    (row,) = imports.read(files / DETAILED, given=given).measurements
    assert (row.gpu_name, row.gpu_count, row.usd_per_gpu_h, row.engine) == ("NVIDIA H200", 2, 3.5, "vllm")
    assert not any("--gpus" in loss for loss in row.import_losses)


def test_a_request_waits_in_the_client_of_an_open_load(changed):
    path = changed(DETAILED, lambda document: document.update(request_rate=50.0))
    imported = imports.read(path)
    # The first was 0.000264583 s late; in an open load it was due when it came.
    assert imported.requests[0].due_s == 0.0
    assert imported.requests[0].sent_s == pytest.approx(0.00026458300271769986)
    assert any("at most 4 requests were in flight" in loss for loss in imported.measurements[0].import_losses)


def test_everything_at_once_is_an_offline_load(changed):
    (row,) = imports.read(changed(RATE, lambda d: d.update(request_rate="inf"))).measurements
    assert (row.load, row.requests_at_once) == ("offline", 12)


def test_a_rising_rate_is_no_rate(changed):
    rise = {"ramp_up_strategy": "linear", "ramp_up_start_rps": 1, "ramp_up_end_rps": 9}
    (row,) = imports.read(changed(RATE, lambda document: document.update(rise))).measurements
    assert (row.load, row.request_rate_per_s) == ("open", None)
    assert any("from 1.0 to 9.0 requests/s (linear)" in loss for loss in row.import_losses)


def test_goodput_without_its_limits_is_a_loss(changed):
    (row,) = imports.read(changed(RATE, lambda document: document.update(request_goodput=4.5))).measurements
    assert row.requests_within_slo is None
    assert any("its goodput, 4.5 requests/s, has no column" in loss for loss in row.import_losses)


def test_failed_requests_keep_their_status_and_stay_outside_latencies(changed):
    def fail_the_first(document):
        document["errors"][0], document["output_lens"][0], document["ttfts"][0] = "Too Many Requests", 0, 0.0
        document["errors"][1], document["output_lens"][1], document["ttfts"][1] = "Traceback: it broke", 0, 0.0
        document.update(completed=18, failed=2)

    imported = imports.read(changed(DETAILED, fail_the_first))
    assert [request.status for request in imported.requests[:3]] == ["overloaded", "failed", "complete"]
    assert (imported.requests[0].first_token_s, imported.requests[0].detail) == (None, "Too Many Requests")
    (row,) = imported.measurements
    assert (row.status, row.requests_failed) == (Status.OK, 2)
    assert row.ttft_p90_s is not None
    assert row.ttft_p90_s > 0.015  # the zeros of failed requests are not among the values


def test_zeros_of_a_run_without_answers_are_no_figures(changed):
    zeros = {"completed": 0, "failed": 12, "total_output_tokens": 0, "median_ttft_ms": 0.0, "mean_ttft_ms": 0.0}
    (row,) = imports.read(changed(RATE, lambda document: document.update(zeros))).measurements
    assert (row.status, row.reasons, row.requests_failed) == (Status.FAILED, (Reason.REQUESTS_FAILED,), 12)
    assert (row.output_tokens, row.window_s, row.ttft_median_s) == (None, None, None)


def test_all_of_a_data_set_has_no_number_of_prompts(changed):
    (row,) = imports.read(changed(RATE, lambda d: d.update(num_prompts=0))).measurements
    assert (row.requests_completed, row.requests_failed) == (12, 0)
    older = imports.read(changed(RATE, lambda d: (d.update(num_prompts=0), d.pop("failed"))))
    assert older.measurements[0].requests_failed is None


def test_a_server_that_does_not_stream_has_no_ttft(changed):
    (row,) = imports.read(changed(RATE, lambda d: d.update(mean_ttft_ms=0.0, median_ttft_ms=0.0))).measurements
    assert (row.ttft_mean_s, row.ttft_median_s, row.ttft_p99_9_s) == (None, None, None)


def test_a_median_of_zero_is_kept_where_the_mean_is_not_zero(changed):
    # Half of the requests came in one chunk, so that nothing lies between their first token and their last.
    (row,) = imports.read(changed(RATE, lambda d: d.update(median_tpot_ms=0.0))).measurements
    assert (row.tpot_median_s, row.tpot_mean_s) == (0.0, pytest.approx(3.049365216752954e-3))


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda d: d.pop("duration"), r"\$\.duration: is missing"),
        (lambda d: d.update(duration=0), r"\$\.duration: found 0, expected greater than 0"),
        (lambda d: d.update(duration="12 s"), r"\$\.duration: found '12 s', expected a valid number"),
        (lambda d: d.update(median_ttft_ms="fast"), r"\$\.median_ttft_ms: found 'fast', expected a valid number"),
        (lambda d: d.update(mean_ttft_ms=float("nan")), r"\$\.mean_ttft_ms: found nan, expected a finite number"),
        (
            lambda d: d.update(median_ttft_ms=-1.0),
            r"\$\.median_ttft_ms: found -1\.0, expected greater than or equal to 0",
        ),
        (lambda d: d.update(p99_ttft_ms=float("inf")), r"\$\.p99_ttft_ms: found inf, expected a finite number"),
        (
            lambda d: d["ttfts"].__setitem__(3, -0.5),
            r"\$\.ttfts\[3\]: found -0\.5, expected greater than or equal to 0",
        ),
        (lambda d: d.update(completed=999), r"\$\.completed: found 999 and 0 in \$\.failed, expected at most 20"),
        (lambda d: d.update(failed=1), r"\$\.completed: found 20 and 1 in \$\.failed, expected at most 20"),
        (lambda d: (d.pop("failed"), d.update(completed=21)), r"\$\.completed: found 21, expected at most 20"),
        (lambda d: d["ttfts"].__setitem__(3, None), r"\$\.ttfts\[3\]: found None, expected a valid number"),
        (lambda d: d["itls"].pop(), "lists of requests have different lengths .*itls 19"),
        (lambda d: d.update(date="yesterday"), r"\$\.date: found 'yesterday', expected a time such as 20260131-235900"),
        (lambda d: d.update(request_rate="fast"), r"\$\.request_rate"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(changed, do, message):
    path = changed(DETAILED, do)
    with pytest.raises(UserError, match=message) as found:
        imports.read(path)
    assert str(found.value).startswith(f"{path}: ")
    assert "\n" not in str(found.value)
