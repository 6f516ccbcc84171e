"""Our client on the server of vLLM: what it counts, a sweep to a frontier, `vllm bench serve` beside it."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from tests.vllm.agreement import by_tokenwatt, by_vllm
from tests.vllm.conftest import Server, offspring

from tokenwatt.analysis.frontier import frontiers
from tokenwatt.bench import Run, run_suite
from tokenwatt.bench.observer import Unwatched
from tokenwatt.record import Measurement, Reason, RequestRecord, Result, Status
from tokenwatt.spec import SuiteSpec, validate
from tokenwatt.store import read


def measure(folder: Path, options: dict[str, Any], **bench: Any) -> Run:
    """A bench of short requests on a server."""
    workload = folder / "w.toml"
    workload.write_text(
        'name = "w"\ndescription = "by hand"\nvocabulary = 500\n'
        '[input]\nkind = "lognormal"\nmedian = 40\nsigma = 0.4\nmax = 100\n[output]\nkind = "fixed"\ntokens = 16\n'
    )
    asked = {
        "engine": "openai_endpoint", "workloads": [str(workload)], "window_s": 2.0, "min_window_s": 1.0,
        "interval_width": 0.0, "idle_s": 0.0, "options": options,
    }  # fmt: skip
    suite = validate({"name": "s", "bench": [{**asked, **bench}]}, SuiteSpec, "here")
    return run_suite(suite, folder / "raw", Unwatched())


def requests_of(run: Run) -> pd.DataFrame:
    table = read(run.folder, RequestRecord)
    assert set(table["status"]) <= {"complete", "cut"}
    return table


def test_eight_streams_are_counted_as_the_server_counts_them(tmp_path: Path, vllm_server: Server):
    options = {"base_url": vllm_server.url, "counting": "token_ids"}
    run = measure(tmp_path, options, concurrency=[8], slo={"ttft_s": 60.0})
    (row,) = run.measurements
    assert row.status is Status.OK
    assert row.requests_judged == row.requests_within_slo
    table = requests_of(run)
    complete = table[table["status"] == "complete"]
    assert set(complete.loc[~complete["is_ramp"], "output_tokens"]) == {16}
    # The server has counted what was cut, and what came after the last look at it, beside what we have seen.
    assert row.server_output_tokens is not None
    assert row.server_output_tokens >= 0.5 * complete["output_tokens"].sum()
    assert "counting=token_ids" in str(row.engine_version)
    assert row.prefix_cache_hit_rate is not None


def test_seven_levels_are_a_frontier(tmp_path: Path, vllm_server: Server):
    levels = {"from": 1, "to": 64, "points": 7}
    run = measure(tmp_path, {"base_url": vllm_server.url}, concurrency=levels, window_s=1.5)
    requests_of(run)
    (line,) = frontiers(read(run.folder, Measurement), read(run.folder, Result))
    assert line.is_whole
    assert {point.label for point in line.points} == {f"x{2**power}" for power in range(7)}
    assert any(point.is_best for point in line.points)


def test_an_open_loop_sends_what_is_due(tmp_path: Path, vllm_server: Server):
    run = measure(tmp_path, {"base_url": vllm_server.url}, rate=[5.0], seed=1)
    table = requests_of(run)
    assert (table["sent_s"] >= table["due_s"]).all()
    assert (table["sent_s"] - table["due_s"]).median() < 0.1


def test_a_server_of_a_command_is_started_asked_and_stopped(tmp_path: Path, tiny_model: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_model), "--dtype", "float32",
        "--enforce-eager", "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048",
    ]  # fmt: skip
    before = set(offspring(""))
    run = measure(tmp_path, {"base_url": f"http://127.0.0.1:{port}", "command": command}, concurrency=[4])
    (row,) = run.measurements
    assert row.status is Status.OK
    requests_of(run)
    assert set(offspring("")) == before


def test_its_answers_are_those_of_transformers(tmp_path: Path, vllm_server: Server, tiny_model: Path):
    accuracy = {"reference_weights": str(tiny_model), "sequences": 4, "length": 48, "tokens": "random"}
    run = measure(tmp_path, {"base_url": vllm_server.url}, concurrency=[2], accuracy=accuracy)
    (row,) = run.measurements
    assert (row.status, row.accuracy_status) == (Status.OK, "agrees")
    assert row.accuracy_mean_difference is not None
    assert row.accuracy_mean_difference < 1e-4
    assert (row.accuracy_decoded_tokens, row.accuracy_detail) == (
        4 * 24, "allowed 0.1 nats, ratio 1.05; contexts to 48 tokens"
    )  # fmt: skip
    assert row.accuracy_decode_difference is not None
    assert row.accuracy_decode_difference < 1e-4


def test_vllm_bench_serve_says_much_the_same(vllm_server: Server):
    # Much: a busy machine moves both. `agreement.py` takes turns and prints the ratios.
    theirs = by_vllm(vllm_server.url, vllm_server.model, requests=80)
    ours = by_tokenwatt(vllm_server.url, vllm_server.model, seconds=4.0)
    assert 0.2 < ours.ttft_s / theirs.ttft_s < 5.0
    assert 0.2 < ours.output_tokens_per_s / theirs.output_tokens_per_s < 5.0


def test_a_dead_server_is_a_row_without_numbers(tmp_path: Path):
    run = measure(tmp_path, {"base_url": "http://127.0.0.1:9", "connect_s": 1.0}, concurrency=[2])
    (row,) = run.measurements
    assert (row.status, row.reasons) == (Status.FAILED, (Reason.ENGINE_ERROR,))
    assert "no server at http://127.0.0.1:9" in str(row.detail)
    assert run.has_failed


def test_a_wrong_model_is_a_row_that_names_the_right_one(tmp_path: Path, vllm_server: Server):
    run = measure(tmp_path, {"base_url": vllm_server.url, "served_model": "other"}, concurrency=[2])
    (row,) = run.measurements
    assert (row.status, row.reasons) == (Status.FAILED, (Reason.ENGINE_ERROR,))
    assert "unknown served_model 'other'" in str(row.detail)
    assert vllm_server.model in str(row.detail)
