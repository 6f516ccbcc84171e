"""Whole benches on a server with a timetable: what becomes of its speeds, and of its faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.bench.instant_bench import write_workload
from tests.engines.endpoint.timed_server import Script, serving

from tokenwatt.bench import Run, run_suite
from tokenwatt.bench.observer import Unwatched
from tokenwatt.record import Reason, RequestRecord, Status
from tokenwatt.spec import SuiteSpec, validate
from tokenwatt.store import read


def measure(folder: Path, url: str, **bench: Any) -> Run:
    options = {"base_url": url, **bench.pop("options", {})}
    asked = {
        "engine": "openai_endpoint", "workloads": [write_workload(folder, 8, 16)], "concurrency": [4], "window_s": 1.0,
        "min_window_s": 0.5, "interval_width": 0.0, "idle_s": 0.0, "options": options,
    }  # fmt: skip
    suite = validate({"name": "s", "bench": [{**asked, **bench}]}, SuiteSpec, "test")
    return run_suite(suite, folder / "raw", Unwatched())


def test_a_server_has_its_own_device_and_no_ceilings_here(tmp_path):
    with serving(Script(ttft_s=0.05, gap_s=0.01)) as served:
        run = measure(tmp_path, served.url, options={"dtype": "bfloat16"})
    (row,) = run.measurements
    assert (row.status, row.dtype, row.ceiling_flop_per_s) == (Status.OK, "bfloat16", None)
    # 15 gaps of 10 ms behind a first token at 50 ms, on a machine that may be busy.
    assert row.ttft_median_s is not None
    assert 0.045 < row.ttft_median_s < 0.5
    assert row.itl_median_s == pytest.approx(0.01, rel=0.5)
    assert row.client_busy is not None


def test_a_server_that_refuses_every_request_leaves_a_row_that_says_so(tmp_path):
    with serving(Script(ttft_s=0.005, gap_s=0.001)) as served:
        run = measure(tmp_path, served.url, options={"extra_body": {"script": {"fault": "429"}}})
    (row,) = run.measurements
    assert row.status is Status.FAILED
    assert "429" in str(row.detail)
    assert run.has_failed


def test_a_server_that_fails_now_and_then_leaves_its_speed_and_the_failures(tmp_path):
    # A quarter of all prompts begin with a token whose request fails.
    faults = tuple({"fault": "500" if token % 4 == 3 else ""} for token in range(40))
    workload = tmp_path / "forty-tokens.toml"
    plain = Path(write_workload(tmp_path, 8, 16)).read_text()
    workload.write_text(plain.replace("[input]", "vocabulary = 40\n[input]", 1))
    with serving(Script(ttft_s=0.005, gap_s=0.001, by_prompt=faults)) as served:
        run = measure(tmp_path, served.url, workloads=[str(workload)])
    (row,) = run.measurements
    table = read(run.folder, RequestRecord)
    assert set(table["status"]) <= {"complete", "cut", "server_error"}
    failed = table[table["status"] == "server_error"]
    assert row.requests_failed == len(failed) > 0
    assert row.output_tokens
    assert Reason.REQUESTS_FAILED in row.reasons
    assert run.has_failed
    assert all("HTTP 500" in detail for detail in failed["detail"])
