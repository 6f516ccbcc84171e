"""`tokenwatt bench` with repeated windows, phases, comparisons and caps, on virtual boards of known power."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pytest
from tests.end_to_end.meter_process import STALLS, STALLS_FORGIVEN

from tokenwatt import store
from tokenwatt.bench import subject
from tokenwatt.power import virtual
from tokenwatt.power.virtual.loads import constant
from tokenwatt.record import Measurement, PowerRecord, Result

BENCH = """
[[bench]]
engine = "fake"
workloads = ["chat-smoke"]
concurrency = [4]
window_s = {window_s}
min_window_s = 0.9
idle_s = {idle_s}
interval_width = {width}
options = {{ ttft_s = 0.05, tpot_s = {tpot_s} }}
"""


def suite(folder: Path, *paces_s: float, window_s: float = 2.1, idle_s: float = 0.0, width: float = 0.0) -> str:
    """A suite with one bench for each pace; its path."""
    benches = [BENCH.format(window_s=window_s, idle_s=idle_s, width=width, tpot_s=pace_s) for pace_s in paces_s]
    path = folder / "suite.toml"
    path.write_text('name = "s"\n' + "".join(benches))
    return str(path)


RunT = TypeVar("RunT")


def undisturbed(folder: Path, run: Callable[[Path], RunT]) -> tuple[Path, RunT]:
    """Results of a run and what it returned, run again where this computer stalled the sampler: that says nothing."""
    for attempt in range(STALLS_FORGIVEN):
        raw = folder / f"raw{attempt}"
        outcome = run(raw)
        reasons = {reason for row in store.read(raw, Measurement)["energy_reasons"] for reason in row}
        if not reasons & STALLS:
            return raw, outcome
    pytest.fail(f"the sampler fell behind in each of {STALLS_FORGIVEN} runs; is this computer overloaded?")


@pytest.fixture
def board():
    """A board at a constant 300 W, with a counter that is renewed every 100 ms and power every 25."""
    script = virtual.Script((virtual.Board(constant(300.0), power_period_s=0.025),), clock="monotonic")
    with virtual.load(script) as machine:
        yield machine


@pytest.mark.slow
def test_windows_of_known_power_agree_on_the_joules_of_a_token(tmp_path, tokenwatt, board, monkeypatch):
    monkeypatch.setattr(subject, "SETTLE_S", 0.1)
    path = suite(tmp_path, 0.01, idle_s=2.5, width=0.02)
    raw, outcome = undisturbed(tmp_path, lambda raw: tokenwatt("bench", path, "--results", str(raw), "--json"))
    assert outcome.code == 0, outcome.err
    rows = json.loads(outcome.out)
    assert [row["window_index"] for row in rows] == list(range(6))
    for row in rows:
        assert row["energy_status"] == "valid", row["energy_reasons"]
        for column in ("gpu_idle_power_w", "gpu_static_power_w", "gpu_idle_power_after_w"):
            assert row[column] == pytest.approx(300.0, rel=0.02), column
        # The board draws as much idle as busy.
        assert abs(row["marginal_joules_per_output_token"]) < 0.02 * row["joules_per_output_token"]

    results = store.read(raw, Result).set_index("quantity")
    joules = results.loc["joules_per_output_token"]
    # 300 W / (4 x 32 tokens every 0.36 s) = 0.84375 J/token; a window of whole tokens is up to 9 of 747 tokens off.
    assert joules["mean"] == pytest.approx(300 * 0.36 / 128, rel=0.005)
    assert joules["low"] - 0.002 <= 300 * 0.36 / 128 <= joules["high"] + 0.002
    assert (joules["windows"], joules["has_converged"]) == (6, True)

    # Each row has the readings of its window and of 2 s around it, and no row has one twice.
    samples = store.read(raw, PowerRecord)
    board_samples = samples[samples["source"].str.startswith("GPU-")]
    assert not board_samples.duplicated(["measurement_id", "at_s"]).any()
    for row in rows:
        own = board_samples[board_samples["measurement_id"] == row["measurement_id"]]["at_s"]
        assert own.min() >= row["window_start_s"] - 2.0
        assert own.max() <= row["window_start_s"] + row["window_s"] + 2.0
        assert own.min() <= row["window_start_s"]
        assert own.max() >= row["window_start_s"] + row["window_s"]


@pytest.mark.slow
def test_a_comparison_prints_the_ratio(tmp_path, tokenwatt, board):
    path = suite(tmp_path, 0.01, 0.005, window_s=1.0)
    raw, outcome = undisturbed(tmp_path, lambda raw: tokenwatt("bench", path, "--compare", "--results", str(raw)))
    assert outcome.code == 0, outcome.err
    # A request of 0.36 s against one of 0.205 s: 1.756 times the rate, and at the same power 0.569 times the joules.
    results = store.read(raw, Result).set_index("quantity")
    assert results.loc["B/A of output_tokens_per_s", "mean"] == pytest.approx(0.36 / 0.205, rel=0.02)
    assert results.loc["B/A of joules_per_output_token", "mean"] == pytest.approx(0.205 / 0.36, rel=0.03)
    assert "B/A of joules_per_output_token: 0.5" in outcome.out
    assert "one pair of windows has no interval" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "cpu", "--compare"), "--compare needs a suite with exactly two [[bench]], 'cpu' has 1"),
        (("bench", "--compare"), "--compare needs the names of suites with two [[bench]]"),
        (("bench", "demo", "--compare", "--power-caps", "500"), "takes no --power-caps"),
    ],
)
def test_a_wrong_comparison(tmp_path, tokenwatt, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    outcome = tokenwatt(*arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_caps_are_set_only_when_allowed(tmp_path, tokenwatt):
    path = suite(tmp_path, 0.01)
    outcome = tokenwatt("bench", path, "--power-caps", "500,700", "--results", str(tmp_path / "raw"))
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert "--power-caps would set the power limit of every GPU of the engine to 700, 500 W" in line
    assert "add --allow-power-limit" in line
    assert not (tmp_path / "raw").exists()


@pytest.mark.slow
def test_a_point_at_two_caps(tmp_path):
    board = virtual.Board(constant(300.0), may_set_limit=True, power_period_s=0.025)
    script = virtual.Script((board,), clock="monotonic", limit_file=tmp_path / "limits")
    path = suite(tmp_path, 0.01, window_s=1.0)
    command = [sys.executable, "-m", "tokenwatt", "bench", path, "--json"]
    environment = virtual.build(tmp_path).environment(script)

    def run(raw: Path) -> subprocess.CompletedProcess[str]:
        arguments = ["--power-caps", "500,600", "--allow-power-limit", "--results", str(raw)]
        return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)

    _, done = undisturbed(tmp_path, run)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["gpu_power_cap_w"], row["gpu_power_limit_w"]) for row in rows] == [(600.0, 600.0), (500.0, 500.0)]
    # Board, when, watts: what was set, and at last what was found.
    set_w = [float(line.split()[2]) for line in (tmp_path / "limits").read_text().splitlines()]
    assert set_w[-3:] == [600.0, 500.0, 700.0]


SWEEP = ["--power-caps", "600,500,400", "--allow-power-limit"]


def test_sigterm_in_a_cap_sweep_keeps_the_rows_and_restores_the_limit(tmp_path):
    limits = tmp_path / "limits"
    board = virtual.Board(constant(300.0), limit_w=650.0, may_set_limit=True)
    environment = virtual.temporary().environment(virtual.Script((board,), clock="monotonic", limit_file=limits))
    results = tmp_path / "raw"
    command = [sys.executable, "-m", "tokenwatt", "bench", suite(tmp_path, 0.01), "--results", str(results), *SWEEP]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(len(pd.read_parquet(file)) for file in results.rglob("measurements.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    assert err.splitlines()[-1] == "tokenwatt: ended by SIGTERM; finished measurements are kept"
    rows = store.read(results, Measurement)
    assert rows["status"].tolist()[0] == "ok"
    assert rows["gpu_power_cap_w"].tolist()[0] == 600.0
    # The file has a line for each limit that was set: board, time, watts.
    set_w = [float(line.split()[2]) for line in limits.read_text().splitlines()]
    assert set_w[-1] == 650.0
    assert 600.0 in set_w


def test_the_whole_machine_is_metered_beside_the_boards(tmp_path, tokenwatt):
    """A meter writes 1000 W into a file six times a second, by its own clock and in UTC, while the bench runs."""
    log = tmp_path / "rack.csv"
    log.write_text("timestamp,power_w\n")
    writing = (
        "import sys, time, datetime\n"
        "while True:\n"
        "    with open(sys.argv[1], 'a') as file:\n"
        "        file.write(datetime.datetime.now(datetime.timezone.utc).isoformat() + ',1000\\n')\n"
        "    time.sleep(0.15)\n"
    )
    path = Path(suite(tmp_path, 0.01))
    path.write_text(path.read_text().replace('name = "s"', f'name = "s"\nnode_meter = "csv:{log}"'))
    writer = subprocess.Popen([sys.executable, "-c", writing, log])
    try:
        outcome = tokenwatt("bench", str(path), "--results", str(tmp_path / "raw"), "--json")
    finally:
        writer.kill()
        writer.wait()
    (row,) = json.loads(outcome.out)
    assert (row["node_meter"], row["node_energy_status"]) == (f"csv:{log}", "valid"), outcome.err
    assert row["node_energy_j"] == pytest.approx(1000.0 * row["window_s"], rel=0.01)


def test_a_meter_that_does_not_exist_costs_nothing(tmp_path, tokenwatt):
    path = Path(suite(tmp_path, 0.01))
    path.write_text(path.read_text().replace('name = "s"', 'name = "s"\nnode_meter = "ipmy"'))
    outcome = tokenwatt("bench", str(path), "--results", str(tmp_path / "raw"))
    assert outcome.code == 2
    assert (
        outcome.err.strip() == "tokenwatt: unknown node meter 'ipmy' (did you mean 'ipmi'?); known: csv, ipmi, redfish"
    )
