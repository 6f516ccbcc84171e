"""`tokenwatt kernels bench` on a pretended GPU, with the real meter path to a virtual board."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from tests.bench.pretend_gpu import Call, PretendGpu
from tests.factories import timing_row

from tokenwatt import cli, kernel_bench, power, store
from tokenwatt.clock import Clock
from tokenwatt.power import Instruments
from tokenwatt.power.instrument import Sleep
from tokenwatt.record import OUR_KERNEL, EnergyStatus, KernelTiming, PowerRecord, PowerSample, Reason
from tokenwatt.terminal import print_kernels
from tokenwatt_kernels import timing
from tokenwatt_kernels.contests import OURS

ROOT = Path(__file__).parents[2]
NO_TIMES = {"median_s": None, "low_s": None, "high_s": None, "samples": None}
METERED = {
    "window_start_s": 1.0,
    "window_s": 2.0,
    "window_calls": 1000,
    "energy_status": EnergyStatus.VALID,
    "gpu_energy_j": 600.0,
    "gpu_power_limit_w": 700.0,
}


def test_a_row_may_be_of_float8():
    assert timing_row(dtype="float8_e4m3fn").dtype == "float8_e4m3fn"


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["tokenwatt", "kernels", "bench", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def kernel_rows(folder: Path) -> list[dict[str, Any]]:
    table = store.read(folder, KernelTiming)
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def two(device: Any) -> dict[str, Callable[[], Any]]:
    return {"tokenwatt": Call(device), "peer": Call(device)}


def interrupted(device: Any) -> dict[str, Callable[[], Any]]:
    def ctrl_c() -> None:
        raise KeyboardInterrupt

    return {"tokenwatt": ctrl_c, "peer": Call(device)}


def broken(device: Any) -> dict[str, Callable[[], Any]]:
    def fail() -> None:
        raise RuntimeError("launch failed")

    return {"tokenwatt": fail, "peer": Call(device)}


def alone(device: Any) -> dict[str, Callable[[], Any]]:
    return {"tokenwatt": Call(device)}


def test_metrics_by_hand():
    rows = [
        timing_row(**METERED),
        timing_row(contender="torch_matmul", median_s=5e-3),
        timing_row(problem="q", flop=4 * 10**10, median_s=20e-3),
        timing_row(problem="q", flop=4 * 10**10, median_s=10e-3, contender="torch_matmul"),
    ]
    table = store.to_table(rows, KernelTiming).to_pandas()
    assert table["flop_per_s"].iloc[0] == pytest.approx(2e12)  # 4e9 / 2 ms
    assert table["bytes_per_s"].iloc[0] == pytest.approx(5e11)  # 1e9 / 2 ms
    # First problem: 4e9 / 4e12 = 1 ms of arithmetic, 1e9 / 8e11 = 1.25 ms of memory. Second: 10 ms of arithmetic.
    assert table["fraction_of_limit"].tolist() == pytest.approx([1.25 / 2, 1.25 / 5, 10 / 20, 10 / 10])
    assert table["time_over_ours"].tolist() == pytest.approx([1.0, 2.5, 1.0, 0.5])
    assert table["joules_per_call"].iloc[0] == pytest.approx(0.6)  # 600 J / 1000
    assert table["gpu_power_w"].iloc[0] == pytest.approx(300.0)  # 600 J / 2 s
    assert table["joules_per_call"].iloc[1:].isna().all()


def test_what_is_missing_gives_missing_metrics():
    rows = [
        timing_row(status="disagrees", reasons=("too far",), **NO_TIMES),
        timing_row(contender="torch_matmul", ceiling_flop_per_s=None, ceiling_memory_bytes_per_s=None),
    ]
    table = store.to_table(rows, KernelTiming).to_pandas()
    assert table[["time_over_ours", "fraction_of_limit", "joules_per_call"]].isna().all(axis=None)
    assert table["flop_per_s"].isna().tolist() == [True, False]


def test_rows_come_back_as_they_went(tmp_path):
    rows = [timing_row(**METERED), timing_row(contender="x", status="unavailable", reasons=("why",), **NO_TIMES)]
    path = store.write(rows, KernelTiming, tmp_path)
    assert path.name == "kernels.parquet"
    first, second = kernel_rows(tmp_path)
    assert (first["median_s"], first["window_calls"], first["configuration"]) == (2e-3, 1000, "tile 64")
    assert (second["status"], list(second["reasons"]), pd.isna(second["median_s"])) == ("unavailable", ["why"], True)
    assert pq.read_schema(path).field("joules_per_call").metadata[b"unit"] == b"J"


def test_no_rows_make_a_readable_table(tmp_path):
    store.write([], KernelTiming, tmp_path)
    assert "fraction_of_limit" in store.read(tmp_path, KernelTiming)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"median_s": None}, "status measured needs median_s"),
        ({"status": "unavailable"}, "status unavailable cannot carry times or joules"),
        ({"status": "disagrees", **NO_TIMES, **METERED}, "status disagrees cannot carry times or joules"),
        ({"window_s": 2.0}, "window_s 2.0 contradicts window_calls None"),
        ({**METERED, "energy_status": EnergyStatus.INVALID}, "energy_status invalid contradicts gpu_energy_j 600.0"),
    ],
)
def test_only_measured_rows_carry_numbers(changes, message):
    with pytest.raises(ValidationError, match=message):
        timing_row(**changes)


def test_the_corridor_knows_our_kernel_by_its_name():
    assert OUR_KERNEL == OURS


def test_joules_per_call_of_known_power(tmp_path, virtual_nvml):
    # Board 1 of two is the GPU's: it draws 2 x 300 W. Board 0 draws 300 W and must stay out.
    boards = replace(virtual_nvml, gpus=2)
    roots = os.pathsep.join(map(str, (ROOT, ROOT / "harness", ROOT / "kernels")))
    program = Path(__file__).with_name("pretend_gpu.py")
    command = [sys.executable, program, "kernels", "bench", "--results", tmp_path, "--json"]
    environment = {**boards.environment, "PYTHONPATH": roots}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr  # one contender disagrees
    ours, peer, wrong, absent = json.loads(done.stdout)

    # A call is 2 ms of the device at 600 W, or 1 ms; it may take longer, because a sleep is never shorter than asked.
    for row, least_j in ((ours, 1.2), (peer, 0.6)):
        assert (row["gpu_uuids"], row["power_scope"]) == ([boards.uuid(1)], "engine_gpus")
        assert (row["energy_status"], row["energy_reasons"]) == ("valid", [])
        assert row["window_s"] >= 2.0
        assert row["gpu_power_w"] == pytest.approx(600, rel=0.01)
        assert row["joules_per_call"] == pytest.approx(600 * row["window_s"] / row["window_calls"], rel=0.01)
        assert row["joules_per_call"] > 0.99 * least_j
    # 12 samples, four each of 1, 2 and 3 ms: positions 2.2, 5.5 and 8.8.
    assert (ours["low_s"], ours["median_s"], ours["high_s"], ours["samples"]) == (1e-3, 2e-3, 3e-3, 12)
    assert ours["fraction_of_limit"] == pytest.approx(0.625)  # max(1 ms, 1.25 ms) / 2 ms
    assert ours["configuration"] == "tile 64"
    assert peer["time_over_ours"] == pytest.approx(2.0)
    assert (wrong["status"], wrong["median_s"], wrong["gpu_energy_j"]) == ("disagrees", None, None)
    assert (absent["status"], absent["reasons"]) == ("unavailable", ["No available kernel."])

    readings = store.read(tmp_path, PowerRecord)
    assert set(readings["measurement_id"]) == {ours["measurement_id"], peer["measurement_id"]}
    assert {row["run_id"] for row in kernel_rows(tmp_path)} == {path.name for path in tmp_path.iterdir()}


def three(device: Any) -> dict[str, Callable[[], Any]]:
    return {"tokenwatt": Call(device), "slow": Call(device, samples_s=(9e-3, 9e-3)), "fast": Call(device)}


@pytest.mark.parametrize(
    ("energy", "metered"),
    [("none", set()), ("ours", {"tokenwatt", "fast"}), ("all", {"tokenwatt", "slow", "fast"})],
)
def test_the_energy_of_those_who_were_chosen_is_measured(tmp_path, monkeypatch, install_meter, energy, metered):
    PretendGpu(problems={"plain": three}).install(monkeypatch.setattr)
    install_meter(1000)
    assert run_cli(monkeypatch, "--results", str(tmp_path), "--energy", energy) == 0
    rows = {row["contender"]: row for row in kernel_rows(tmp_path)}
    assert {name for name, row in rows.items() if row["window_calls"] > 0} == metered
    assert [row["median_s"] for row in rows.values()] == [2e-3, 9e-3, 2e-3]
    for name in rows.keys() - metered:
        missing = ("power_scope", "gpu_energy_j", "joules_per_call", "window_s", "window_calls")
        assert rows[name]["energy_status"] == "no_meter"
        assert all(pd.isna(rows[name][column]) for column in missing)


def test_named_problems_alone_are_timed(tmp_path, monkeypatch):
    PretendGpu(problems={"first": two, "second": two}).install(monkeypatch.setattr)
    assert run_cli(monkeypatch, "--results", str(tmp_path), "--problem", "second") == 0
    assert {row["problem"] for row in kernel_rows(tmp_path)} == {"second"}


def test_what_the_time_did_not_suffice_for_is_named(tmp_path, monkeypatch, capfd):
    # Made at 0 s; asked before each of three problems.
    seconds = iter([0.0, 1.0, 30.0, 30.0])
    monkeypatch.setattr(kernel_bench, "Budget", functools.partial(kernel_bench.Budget, clock=lambda: next(seconds)))
    PretendGpu(problems={"first": two, "second": two, "third": two}).install(monkeypatch.setattr)
    assert run_cli(monkeypatch, "--results", str(tmp_path), "--budget-s", "30") == 0
    assert {row["problem"] for row in kernel_rows(tmp_path)} == {"first"}
    assert capfd.readouterr().err.splitlines()[-2:] == [
        "left, the time was up: family second bfloat16",
        "left, the time was up: family third bfloat16",
    ]


def test_without_a_meter_there_are_times_and_no_joules(tmp_path, monkeypatch, capfd):
    PretendGpu(problems={"plain": two}).install(monkeypatch.setattr)
    assert run_cli(monkeypatch, "--results", str(tmp_path), "--dtype", "bfloat16", "--dtype", "float16") == 0
    printed = capfd.readouterr()
    assert printed.out.count("GPU without NVML, power limit –; ceilings in") == 2
    assert printed.out.count("no meter") == 4
    assert "written to" in printed.err
    rows = kernel_rows(tmp_path)
    assert [(row["dtype"], row["contender"]) for row in rows] == [
        ("bfloat16", "tokenwatt"),
        ("bfloat16", "peer"),
        ("float16", "tokenwatt"),
        ("float16", "peer"),
    ]
    for row in rows:
        assert (row["median_s"], row["energy_status"]) == (2e-3, "no_meter")
        assert pd.isna(row["joules_per_call"])


def test_a_red_gate_times_nothing(tmp_path, monkeypatch, capfd):
    red = SimpleNamespace(case="matmul.dense odd", dtype="bfloat16", status="failed")
    PretendGpu(verdicts=(red,)).install(monkeypatch.setattr)
    assert run_cli(monkeypatch, "--results", str(tmp_path)) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert "nothing is timed, because these fail the gate: matmul.dense odd bfloat16" in last
    assert kernel_rows(tmp_path) == []


def test_ctrl_c_keeps_what_was_measured(tmp_path, monkeypatch, capfd):
    PretendGpu(problems={"first": two, "second": interrupted}).install(monkeypatch.setattr)
    assert run_cli(monkeypatch, "--results", str(tmp_path)) == 130
    assert capfd.readouterr().err.splitlines()[-1] == "tokenwatt: interrupted; finished measurements are kept"
    assert [row["problem"] for row in kernel_rows(tmp_path)] == ["first", "first"]


def test_a_contest_that_fails_keeps_what_was_measured(tmp_path, monkeypatch):
    PretendGpu(problems={"first": two, "second": broken}).install(monkeypatch.setattr)
    monkeypatch.setattr("sys.argv", ["tokenwatt", "kernels", "bench", "--results", str(tmp_path)])
    with pytest.raises(RuntimeError, match="launch failed"):
        cli.main()
    assert [row["problem"] for row in kernel_rows(tmp_path)] == ["first", "first"]


def test_a_contest_without_a_baseline_is_a_row_without_a_number(tmp_path, monkeypatch):
    PretendGpu(problems={"first": alone, "second": two}).install(monkeypatch.setattr)
    monkeypatch.setattr("sys.argv", ["tokenwatt", "kernels", "bench", "--results", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    rows = [(row["problem"], row["status"]) for row in kernel_rows(tmp_path)]
    assert rows == [("first", "unavailable"), ("second", "measured"), ("second", "measured")]


class Meter:
    """Reads 100 W so many times, then its driver gives up."""

    sources = ("GPU-x",)

    def __init__(self, readings: int) -> None:
        self.left = readings

    def learn(self, clock: Clock, sleep: Sleep) -> Instruments:
        return {}

    def read(self, clock: Clock) -> list[PowerSample]:
        self.left -= 1
        if self.left < 0:
            raise power.MeterError("GPU-x is lost")
        return [PowerSample(clock(), "GPU-x", power_w=100.0)]

    def close(self) -> None:
        """Nothing to give back."""


@pytest.fixture
def install_meter(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Read by a scripted meter, in windows too short for its joules to be valid."""

    def install(readings: int) -> None:
        monkeypatch.setattr(power, "open_meters", lambda _: power.Meters((Meter(readings),), "engine_gpus"))
        monkeypatch.setattr(timing, "loop", functools.partial(timing.loop, window_s=0.3))

    return install


def test_a_device_that_waits_for_its_host_is_suspected(tmp_path, monkeypatch, install_meter):
    def one_waits(device: Any) -> dict[str, Callable[[], Any]]:
        return {"tokenwatt": Call(device), "peer": Call(device, device_s=0.0, host_s=2e-3)}

    PretendGpu(problems={"plain": one_waits}).install(monkeypatch.setattr)
    install_meter(1000)
    assert run_cli(monkeypatch, "--results", str(tmp_path)) == 0
    ours, peer = kernel_rows(tmp_path)
    assert (ours["energy_status"], peer["energy_status"]) == ("suspect", "suspect")
    assert "host_bound" not in ours["energy_reasons"]
    assert "host_bound" in peer["energy_reasons"]


def test_a_meter_that_dies_spoils_the_energy_and_not_the_times(tmp_path, monkeypatch, capfd, install_meter):
    PretendGpu(problems={"plain": two}).install(monkeypatch.setattr)
    install_meter(3)
    assert run_cli(monkeypatch, "--results", str(tmp_path)) == 1
    assert "plain tokenwatt: GPU-x is lost, meter_error" in capfd.readouterr().out
    for row in kernel_rows(tmp_path):
        assert (row["status"], row["median_s"], row["energy_status"]) == ("measured", 2e-3, "invalid")
        assert pd.isna(row["gpu_energy_j"])
    assert len(store.read(tmp_path, PowerRecord)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("matmul.dens",), "unknown family 'matmul.dens' (did you mean 'matmul.dense'?)"),
        (("--dtype", "fp8"), "unknown dtype 'fp8'; known: bfloat16, float16, float32"),
        (("--energy", "our"), "unknown energy 'our' (did you mean 'ours'?); known: all, none, ours"),
        (("fused.rope", "--problem", "rope"), " in bfloat16, got rope"),
        (("--fast",), "No such option: --fast"),
    ],
)
def test_a_wrong_command_line_is_one_line(tmp_path, monkeypatch, capfd, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run_cli(monkeypatch, *arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_the_table_shows_every_number_whole(capsys):
    # 2 ms; 4e9 / 2 ms = 2 TFLOP/s; 1e9 / 2 ms = 0.5 TB/s; 1.25 ms / 2 ms = 62 %; 600 J / 1000 calls; 600 J / 2 s.
    doubtful = {"energy_status": EnergyStatus.SUSPECT, "energy_reasons": (Reason.THROTTLED,)}
    print_kernels(
        [
            timing_row(**METERED),
            timing_row(contender="sdpa_efficient", median_s=5e-3, **{**METERED, **doubtful, "gpu_energy_j": 0.003}),
            timing_row(contender="sdpa_cudnn", status="unavailable", reasons=("No available kernel.",), **NO_TIMES),
        ]
    )
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == "Board, power limit 700 W; ceilings in bfloat16: 4.00 TFLOP/s, 800 GB/s"
    assert "tokenwatt 2000.0 1000.0-3000.0 2.0 0.50 62 % 1.00 600 mJ 300 W" in lines
    assert "sdpa_efficient 5000.0 1000.0-3000.0 0.8 0.20 25 % 2.50 3.00 µJ 1.50 mW" in lines
    assert "sdpa_cudnn unavailable" in lines
    assert "matmul.dense llama3.1-8b_gate_up_m4096 sdpa_efficient: throttled" in lines
    assert lines[-1] == "matmul.dense llama3.1-8b_gate_up_m4096 sdpa_cudnn: No available kernel."
