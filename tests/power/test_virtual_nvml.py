"""The whole path from the NVML library to joules, against boards whose true energy is known."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenwatt.power import integrate
from tokenwatt.power.series import MAX_GAP_PERIODS
from tokenwatt.record import EnergyStatus, PowerSample, Reason

HERE = Path(__file__).parent
MARGIN_S = 1.1
"""Sampled beyond both edges of every window: a second averages the counter's lag."""
STALLS_FORGIVEN = 3


def ask(machine: Any, *requests: dict[str, Any], check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the requests in a process that finds the virtual library."""
    environment = {**machine.environment, "PYTHONPATH": str(HERE.parents[1] / "harness")}
    command = [sys.executable, HERE / "sample_machines.py"]
    requests_json = json.dumps([{"settings": {}, "uuids": None, "seconds": 0, **request} for request in requests])
    done = subprocess.run(command, env=environment, input=requests_json, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done


def sample(*machines: Any, seconds: float, uuids: list[str] | None = None) -> list[list[PowerSample]]:
    """Samples of each machine. Recorded again where this computer stalled the sampler: that says nothing about it."""
    requests = [{"settings": machine.settings, "uuids": uuids, "seconds": seconds} for machine in machines]
    for _ in range(STALLS_FORGIVEN):
        answers = json.loads(ask(machines[0], *requests).stdout)
        recorded = [
            [PowerSample.model_validate_json(json.dumps(row)) for row in answer["samples"]] for answer in answers
        ]
        if not any(stalled(samples) for samples in recorded):
            return recorded
    pytest.fail(f"the sampler fell behind in each of {STALLS_FORGIVEN} recordings; is this computer overloaded?")


def stalled(samples: list[PowerSample]) -> bool:
    times_s = [sample.at_s for sample in samples if sample.source == samples[0].source]
    spacings_s = [later - earlier for earlier, later in pairwise(times_s)]
    return bool(spacings_s) and max(spacings_s) > MAX_GAP_PERIODS * float(np.median(spacings_s))


@pytest.mark.parametrize("tick_s", [0.02, 0.1])
def test_both_instruments_recover_the_true_energy(virtual_nvml, tick_s: float):
    machine = replace(virtual_nvml, base_w=300.0, amplitude_w=150.0, period_s=0.7, tick_s=tick_s, gpus=2)
    (samples,) = sample(machine, seconds=3.3 + 2 * MARGIN_S)
    begin_s = samples[0].at_s + MARGIN_S
    for length_s in (2.0, 2.35, 3.0):
        for shift_s in (0.0, 0.09, 0.21, 0.3):
            start_s, end_s = begin_s + shift_s, begin_s + shift_s + length_s
            energy = integrate(samples, start_s, end_s)
            true_j = machine.true_energy_j(start_s, end_s)
            assert (energy.status, energy.reasons) == (EnergyStatus.VALID, ())
            assert energy.counter_j == pytest.approx(true_j, rel=0.01)
            assert energy.sampled_j == pytest.approx(true_j, rel=0.01)
            assert energy.state.power_limit_w == 700.0 + 1400.0


def test_faults_are_named(virtual_nvml):
    healthy = replace(virtual_nvml, base_w=400.0, tick_s=0.02)
    faults = {
        "no counter": (replace(healthy, no_counter=True), (Reason.COUNTER_MISSING,)),
        # The averaged reading that NVML offers instead must not be taken.
        "no instantaneous power": (replace(healthy, no_instant=True), (Reason.POWER_MISSING,)),
        "power reads 20 % high": (replace(healthy, bias=1.2), (Reason.INSTRUMENTS_DISAGREE,)),
        "heat (0x40) and power cap (0x4)": (replace(healthy, throttle=0x44), (Reason.THROTTLED,)),
    }
    recorded = sample(*(machine for machine, _ in faults.values()), seconds=2.2)
    for (fault, (machine, reasons)), samples in zip(faults.items(), recorded, strict=True):
        start_s = samples[0].at_s + 0.05
        energy = integrate(samples, start_s, start_s + 2.05)
        assert energy.reasons == reasons, fault
        # Hardly a sample beyond the edges, so the counter's lag is hardly averaged: a tick of 20 ms is 1 % of 2.05 s.
        assert energy.gpu_energy_j == pytest.approx(machine.true_energy_j(start_s, start_s + 2.05), rel=0.02), fault
    assert integrate(recorded[-1], recorded[-1][0].at_s, recorded[-1][-1].at_s).throttle_reasons == (
        "hw_thermal_slowdown",
        "sw_power_cap",
    )


def test_boards_are_chosen_by_uuid_in_the_order_asked(virtual_nvml):
    machine = replace(virtual_nvml, gpus=3, base_w=100.0)
    chosen = [machine.uuid(2), machine.uuid(0)]
    answers = json.loads(
        ask(
            machine, {"uuids": chosen}, {"uuids": None}, {"uuids": []}, {"settings": replace(machine, gpus=0).settings}
        ).stdout
    )
    by_uuid, every, none, empty = answers
    # Board g draws (g + 1) * 100 W.
    assert [(row["source"], row["power_w"]) for row in by_uuid["samples"]] == [(chosen[0], 300.0), (chosen[1], 100.0)]
    assert [row["source"] for row in every["samples"]] == list(machine.uuids)
    assert [answer["scope"] for answer in answers] == ["engine_gpus", "all_gpus", None, None]
    assert none["samples"] == empty["samples"] == []


def test_every_quantity_in_si(virtual_nvml):
    (answer,) = json.loads(ask(replace(virtual_nvml, gpus=2, base_w=250.0, throttle=0x1), {}).stdout)
    row = answer["samples"][1]
    assert (row["power_w"], row["power_limit_w"], row["temperature_c"]) == (500.0, 1400.0, 51.0)
    assert (row["sm_clock_hz"], row["memory_clock_hz"]) == (1.5e9, 2.6e9)
    # The counter has run since the machine's clock was 0, at the latest tick (0.1 s, and 0.1 / 3 s late).
    assert 0 <= 500.0 * row["at_s"] - row["energy_j"] <= 500.0 * 0.15
    assert row["throttle_reasons"] == []


def test_an_old_driver_answers_through_deprecated_calls(virtual_nvml):
    (answer,) = json.loads(ask(replace(virtual_nvml, old_driver=True, throttle=0x8), {}).stdout)
    (row,) = answer["samples"]
    assert (row["power_w"], row["temperature_c"], row["throttle_reasons"]) == (None, 50.0, ["hw_slowdown"])


@pytest.mark.parametrize(
    ("faults", "request_", "message"),
    [
        ({}, {"uuids": ["GPU-7"]}, "UserError: unknown GPU 'GPU-7'; known: GPU-00000000-0000-0000-0000-000000000000"),
        ({}, {"uuids": ["MIG-7"]}, "UserError: MIG-7 is a MIG slice, which has no power meter of its own"),
        ({"lost": True}, {}, "MeterError: NVML cannot read energy counter of GPU-00000000-0000-0000-0000-000000000000"),
    ],
    ids=["unknown UUID", "MIG slice", "board lost"],
)
def test_errors_say_what_is_wrong(virtual_nvml, faults: dict[str, Any], request_: dict[str, Any], message: str):
    done = ask(replace(virtual_nvml, **faults), request_, check=False)
    assert done.returncode == 1
    assert message in done.stderr


def test_boards_for_the_environment(virtual_nvml):
    program = "from tokenwatt.power import boards; print(*boards(), sep='\\n')"
    environment = {**replace(virtual_nvml, gpus=2).environment, "PYTHONPATH": str(HERE.parents[1] / "harness")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"Board(name='Virtual GPU {index}', uuid='{virtual_nvml.uuid(index)}', driver_version='virtual', "
        f"memory_bytes={80 * 2**30})"
        for index in range(2)
    ]
