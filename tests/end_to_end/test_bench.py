"""`tokenwatt bench` from a suite file to parquet, with the real meter path where a virtual board can stand in."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from tokenwatt import power, store
from tokenwatt.clock import Clock
from tokenwatt.power import Instruments
from tokenwatt.power.instrument import Sleep
from tokenwatt.record import Measurement, PowerRecord, PowerSample, RequestRecord

FAKE = """
name = "fake"
[[bench]]
engine = "fake"
workloads = ["chat-smoke"]
concurrency = {concurrency}
window_s = {window_s}
min_window_s = 1.0
idle_s = {idle_s}
interval_width = 0
options = {{ ttft_s = 0.05, tpot_s = 0.01{options} }}
"""

TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 32000,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def suite(folder: Path, concurrency: str = "[4]", window_s: float = 2.0, idle_s: float = 0.0, options: str = "") -> str:
    path = folder / "suite.toml"
    path.write_text(FAKE.format(concurrency=concurrency, window_s=window_s, idle_s=idle_s, options=options))
    return str(path)


def bench(arguments: list[str], environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tokenwatt", "bench", *arguments]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_joules_per_token_of_known_power_and_known_rate(tmp_path, virtual_nvml):
    # Two boards of (1 + 2) x 300 W on average, a sine of half a second on top, counters that tick every 100 ms.
    boards = replace(virtual_nvml, gpus=2, base_w=300.0, amplitude_w=100.0, period_s=0.5)
    process = bench([suite(tmp_path, window_s=5.0), "--results", str(tmp_path / "raw"), "--json"], boards.environment)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    (row,) = json.loads(out)
    # 4 slots, 32 tokens every 0.05 + 31 x 0.01 = 0.36 s: 355.6 tokens/s; 900 W / 355.6 tokens/s = 2.53125 J/token.
    assert row["joules_per_output_token"] == pytest.approx(900 * 0.36 / (4 * 32), rel=0.01)
    # Both instruments against the window that was really found: ten whole waves, so the sine adds nothing.
    true_j = 900 * row["window_s"]
    assert row["gpu_energy_counter_j"] == pytest.approx(true_j, rel=0.01)
    assert row["gpu_energy_sampled_j"] == pytest.approx(true_j, rel=0.01)
    assert row["energy_status"] == "valid"
    assert (row["power_scope"], row["gpu_count"]) == ("all_gpus", 2)
    assert row["output_tokens_per_s_per_w"] == pytest.approx(1 / row["joules_per_output_token"])
    samples = store.read(tmp_path / "raw", PowerRecord)
    assert set(samples["source"]) >= set(boards.uuids)


@pytest.mark.slow
def test_idle_power_is_read_first_and_marginal_energy_follows(tmp_path, virtual_nvml):
    # The counter's tick of 0.1 s leaves some hundredths of a second open at each edge: 1 % of four seconds, 2 % of two.
    process = bench([suite(tmp_path, idle_s=4.0), "--results", str(tmp_path), "--json"], virtual_nvml.environment)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    (row,) = json.loads(out)
    assert row["gpu_idle_power_w"] == pytest.approx(300.0, rel=0.015)
    # The virtual board draws as much idle as busy, so nothing is left on the margin: within 2 % of 300 W / rate.
    assert abs(row["marginal_joules_per_output_token"]) < 0.02 * row["joules_per_output_token"]


def test_without_a_meter_nothing_is_invented(tmp_path, tokenwatt):
    outcome = tokenwatt("bench", suite(tmp_path), "--results", str(tmp_path / "raw"))
    assert outcome.code == 0
    assert "no meter" in outcome.out
    (row,) = store.read(tmp_path / "raw", Measurement).to_dict("records")
    assert row["energy_status"] == "no_meter"
    for column in (
        "gpu_energy_j",
        "gpu_energy_counter_j",
        "gpu_idle_power_w",
        "joules_per_output_token",
        "gpu_power_w",
    ):
        assert pd.isna(row[column]), column
    assert row["output_tokens_per_s"] == pytest.approx(4 * 32 / 0.36, rel=0.01)
    # Sent at an instant, answered 50 ms later, then every 10 ms; the engine's sleep may be late by a little.
    assert row["ttft_median_s"] == pytest.approx(0.05, abs=0.005)
    assert row["tpot_median_s"] == pytest.approx(0.01, abs=0.0005)
    assert row["running"] == pytest.approx(4.0)
    requests = store.read(tmp_path / "raw", RequestRecord)
    ramp = requests[requests["is_ramp"]]
    # Three of the first four are sent in mid-life: a quarter of 32 tokens to come, a half, three quarters; the rest of
    # the output is already in the prompt of 64.
    assert sorted(zip(ramp["osl"], ramp["isl"], strict=True)) == [(8, 88), (16, 80), (24, 72)]


@pytest.fixture
def one_thread():
    """Two threads on a busy two-core machine wait for each other far longer than a tiny model computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_the_native_engine_runs_a_model_of_its_own(tmp_path, tokenwatt):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    path = tmp_path / "suite.toml"
    path.write_text(
        f'name = "tiny"\n[[bench]]\nengine = "native"\nmodel = "{tmp_path}"\ndtype = "float32"\ndevice = "cpu"\n'
        'workloads = ["chat-smoke"]\nconcurrency = [1, 2]\nwindow_s = 2.0\nmin_window_s = 1.0\ninterval_width = 0\n'
    )
    outcome = tokenwatt("bench", str(path), "--results", str(tmp_path / "raw"), "--json")
    assert outcome.code == 0, outcome.err
    rows = json.loads(outcome.out)
    assert [row["concurrency"] for row in rows] == [1, 2]
    for row in rows:
        assert row["device"] == "cpu"
        assert 0 < row["output_tokens_per_s"] < row["limit_output_tokens_per_s"]
        assert row["isl"] == 64
        assert row["weights_source"] == "random"


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_native_engine_runs_its_phases(tmp_path, tokenwatt):
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "max_position_embeddings": 4096}))
    lengths = '[input]\nkind = "fixed"\ntokens = 400\n[output]\nkind = "fixed"\ntokens = 64\n'
    (tmp_path / "long.toml").write_text(f'name = "long"\ndescription = "fixed"\n{lengths}')
    path = tmp_path / "suite.toml"
    path.write_text(
        f'name = "tiny"\n[[bench]]\nengine = "native"\nmodel = "{tmp_path}"\ndtype = "float32"\ndevice = "cpu"\n'
        f'workloads = ["{tmp_path}/long.toml"]\nconcurrency = [2]\nwindow_s = 1.0\nmin_window_s = 0.5\n'
        "interval_width = 0\nphases = true\n"
    )
    outcome = tokenwatt("bench", str(path), "--results", str(tmp_path / "raw"), "--json")
    assert outcome.code == 0, outcome.err
    mixed, prefill, decode = json.loads(outcome.out)
    assert [row["phase"] for row in (mixed, prefill, decode)] == ["mixed", "prefill", "decode"]
    # A token of the mixed window carries the work of 400 / 64 prompt tokens; alone only its own.
    assert decode["flop"] / decode["output_tokens"] < mixed["flop"] / mixed["output_tokens"]
    assert prefill["output_tokens"] == prefill["requests_completed"] == prefill["input_tokens"] / 400
    assert (decode["requests_completed"], decode["input_tokens"]) == (0, 0)
    # A busy machine may go twice as fast in the window as in the short run before it, or half as fast.
    assert decode["context"] == pytest.approx(mixed["context"], rel=0.5)


@pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_transformers_runs_in_both_modes(kind, tmp_path, tokenwatt):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    bench = (
        f'[[bench]]\nengine = "hf_transformers"\nmodel = "{tmp_path}"\ndtype = "float32"\ndevice = "{kind}"\n'
        'workloads = ["chat-smoke"]\nconcurrency = [2]\nwindow_s = 1.0\nmin_window_s = 0.5\ninterval_width = 0\n'
        "idle_s = 0\n"
    )
    modes = ("generate", "continuous_batching")
    path = tmp_path / "suite.toml"
    path.write_text('name = "hf"\n' + "".join(f'{bench}options = {{ mode = "{mode}" }}\n' for mode in modes))
    outcome = tokenwatt("bench", str(path), "--results", str(tmp_path / "raw"), "--json")
    assert outcome.code == 0, outcome.err
    generate, continuous = json.loads(outcome.out)
    assert [row["engine"] for row in (generate, continuous)] == [f"hf_transformers.{mode}" for mode in modes]
    for row in (generate, continuous):
        assert (row["device"], row["status"], row["isl"]) == (kind, "ok", 64)
        assert row["output_tokens"] > 0
        assert 0 < row["running"] <= 2
    assert generate["flop"] > 0
    assert continuous["flop"] is None


@pytest.mark.gpu
def test_a_real_board_is_metered(tmp_path, tokenwatt):
    path = tmp_path / "suite.toml"
    path.write_text(
        'name = "gpu-test"\n[[bench]]\nengine = "native"\nmodel = "Qwen3-0.6B"\ndevice = "cuda"\n'
        'workloads = ["chat"]\nconcurrency = [16]\nwindow_s = 10.0\nmin_window_s = 8.0\nidle_s = 3.0\n'
        "interval_width = 0\n"
    )
    outcome = tokenwatt("bench", str(path), "--results", str(tmp_path / "raw"), "--json")
    assert outcome.code == 0, outcome.err
    (row,) = json.loads(outcome.out)
    assert row["energy_status"] == "valid", row["energy_reasons"]
    assert row["power_scope"] == "engine_gpus"
    assert len(row["gpu_uuids"]) == 1
    assert row["gpu_idle_power_w"] < row["gpu_power_w"] <= 1.05 * row["gpu_power_limit_w"]
    assert 0 < row["share_of_limit"] < 1


class DyingMeter:
    """Reads 100 W a few times, then its driver gives up."""

    sources = ("GPU-x",)

    def __init__(self, readings: int) -> None:
        self.left = readings

    def learn(self, clock: Clock, sleep: Sleep) -> Instruments:
        return {}

    def read(self, clock: Clock) -> list[PowerSample]:
        self.left -= 1
        if self.left < 0:
            raise power.MeterError("GPU-x is lost")
        return [PowerSample(clock(), "GPU-x", energy_j=100.0 * clock(), power_w=100.0)]

    def close(self) -> None:
        """Nothing to give back."""


@pytest.mark.parametrize(
    ("readings", "status", "reasons"),
    [(20, "ok", []), (0, "failed", ["meter_error"])],
    ids=["lost in the window", "lost before it"],
)
def test_a_meter_that_dies_spoils_the_energy_and_not_the_tokens(
    tmp_path, tokenwatt, monkeypatch, readings, status, reasons
):
    meters = power.Meters((DyingMeter(readings),), "all_gpus")
    monkeypatch.setattr(power, "open_meters", lambda _: meters)
    outcome = tokenwatt("bench", suite(tmp_path), "--results", str(tmp_path / "raw"), "--json")
    assert outcome.code == 1
    (row,) = json.loads(outcome.out)
    assert (row["status"], row["reasons"], row["detail"]) == (status, reasons, "GPU-x is lost")
    assert row["gpu_energy_j"] is None
    if status == "ok":
        assert row["output_tokens_per_s"] == pytest.approx(4 * 32 / 0.36, rel=0.01)
        assert (row["energy_status"], row["energy_reasons"]) == ("invalid", ["meter_error"])


def test_a_broken_driver_is_a_finding_and_one_line(tmp_path, tokenwatt, monkeypatch):
    def broken(*_):
        raise power.MeterError("NVML does not start: driver/library version mismatch")

    monkeypatch.setattr(power, "boards", broken)
    outcome = tokenwatt("doctor", "--json")
    assert outcome.code == 0
    (meter,) = [finding for finding in json.loads(outcome.out) if finding["subject"] == "GPU meter"]
    assert "version mismatch" in meter["found"]
    monkeypatch.setattr(power, "open_meters", broken)
    outcome = tokenwatt("bench", suite(tmp_path), "--results", str(tmp_path / "raw"))
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1] == "tokenwatt: NVML does not start: driver/library version mismatch"


def test_a_window_shorter_than_a_request_is_not_stable(tmp_path, tokenwatt):
    # 32 tokens every 0.5 s take 16 s; nothing that begins in the window can end in it.
    path = suite(tmp_path, concurrency="[2]").replace("suite.toml", "slow.toml")
    text = (tmp_path / "suite.toml").read_text().replace("tpot_s = 0.01", "tpot_s = 0.5")
    Path(path).write_text(text)
    outcome = tokenwatt("bench", path, "--results", str(tmp_path / "raw"), "--json")
    assert outcome.code == 0
    (row,) = json.loads(outcome.out)
    assert row["is_stable"] is False
    assert "no_request_completed" in row["reasons"]
    assert row["tpot_median_s"] is None


def test_a_failing_engine_leaves_a_row_and_exit_code_1(tmp_path, tokenwatt):
    outcome = tokenwatt("bench", suite(tmp_path, options=", fail_after_tokens = 9"), "--results", str(tmp_path / "raw"))
    assert outcome.code == 1
    (row,) = store.read(tmp_path / "raw", Measurement).to_dict("records")
    assert (row["status"], list(row["reasons"])) == ("failed", ["engine_error"])
    assert row["detail"] == "scripted failure after 9 tokens"
    assert pd.isna(row["output_tokens"])
    assert "scripted failure after 9 tokens" in outcome.err


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")]
)
def test_a_signal_keeps_what_was_measured(tmp_path, number, code, said):
    results = tmp_path / "raw"
    process = bench([suite(tmp_path, concurrency="[1, 2, 4]", window_s=1.5), "--results", str(results)])
    deadline = time.monotonic() + 60
    while not any(_rows(file) >= 1 for file in results.rglob("measurements.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)  # in the middle of the second point
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert err.splitlines()[-1] == f"tokenwatt: {said}; finished measurements are kept"
    table = store.read(results, Measurement)
    assert table["status"].tolist() == ["ok", "interrupted"]
    assert pd.isna(table["output_tokens"].iloc[1])
    assert not list(results.rglob("*.part"))


def _rows(path: Path) -> int:
    return len(pd.read_parquet(path))
