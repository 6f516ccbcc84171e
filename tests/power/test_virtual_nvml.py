"""The whole path from the NVML library to joules, on the real clock, against boards whose true energy is known."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenwatt.errors import UserError
from tokenwatt.power import Board, MeterError, Meters, PowerReadings, Sampler, boards, integrate, open_meters, virtual
from tokenwatt.power.nvml import PROCESSES_EVERY
from tokenwatt.power.series import MAX_GAP_PERIODS
from tokenwatt.record import EnergyStatus, PowerSample

MARGIN_S = 1.1
"""Sampled beyond both edges of every window: the counter's ticks are found from a second and more."""
STALLS_FORGIVEN = 3


@contextmanager
def meters_of(machine: Any, uuids: tuple[str, ...] | None = None) -> Iterator[Meters]:
    """The meters of a virtual machine, in this process."""
    with (
        virtual.load(machine.script, machine.library),
        open_meters(uuids, rapl_root=Path("/nonexistent")) as meters,
    ):
        yield meters


def read_once(machine: Any, uuids: tuple[str, ...] | None = None) -> list[PowerSample]:
    with meters_of(machine, uuids) as meters:
        return [sample for meter in meters.meters for sample in meter.read(time.monotonic)]


def sample(meters: Meters, seconds: float) -> PowerReadings:
    """Readings of so many seconds. Taken again where this computer stalled the sampler: that says nothing about it."""
    for _ in range(STALLS_FORGIVEN):
        with Sampler(meters.meters, time.monotonic) as sampler:
            time.sleep(seconds)
        readings = sampler.log.readings()
        if not stalled(readings):
            return readings
    pytest.fail(f"the sampler fell behind in each of {STALLS_FORGIVEN} recordings; is this computer overloaded?")


def stalled(readings: PowerReadings) -> bool:
    spacings_s = np.diff(next(iter(readings.values())).column("at_s"))
    return bool(spacings_s.max() > MAX_GAP_PERIODS * np.median(spacings_s))


@pytest.mark.slow
def test_both_instruments_recover_the_true_energy(virtual_nvml):
    machine = replace(virtual_nvml, base_w=300.0, amplitude_w=150.0, period_s=0.7, gpus=2)
    with meters_of(machine) as meters:
        instruments = meters.learn(time.monotonic)
        readings = sample(meters, seconds=3.3 + 2 * MARGIN_S)
    begin_s = min(board.column("at_s")[0] for board in readings.values()) + MARGIN_S
    for length_s in (2.0, 2.35, 3.0):
        for shift_s in (0.0, 0.09, 0.21, 0.3):
            start_s, end_s = begin_s + shift_s, begin_s + shift_s + length_s
            energy = integrate(readings, start_s, end_s, instruments)
            true_j = machine.true_energy_j(start_s, end_s)
            assert (energy.status, energy.reasons) == (EnergyStatus.VALID, ())
            assert energy.counter_j == pytest.approx(true_j, rel=0.01)
            assert energy.sampled_j == pytest.approx(true_j, rel=0.01)
            assert energy.state.power_limit_w == 700.0 + 1400.0


def test_boards_are_chosen_by_uuid_in_the_order_asked(virtual_nvml):
    machine = replace(virtual_nvml, gpus=3, base_w=100.0)
    chosen = (machine.uuid(2), machine.uuid(0))
    # Board g draws (g + 1) * 100 W.
    assert [(row.source, row.power_w) for row in read_once(machine, chosen)] == [(chosen[0], 300.0), (chosen[1], 100.0)]
    assert [row.source for row in read_once(machine)] == list(machine.uuids)
    assert read_once(machine, ()) == read_once(replace(machine, gpus=0)) == []
    scopes = []
    for found, uuids in ((machine, chosen), (machine, None), (machine, ()), (replace(machine, gpus=0), None)):
        with meters_of(found, uuids) as meters:
            scopes.append(meters.scope)
    assert scopes == ["engine_gpus", "all_gpus", None, None]


def test_every_quantity_in_si(virtual_nvml):
    row = read_once(replace(virtual_nvml, gpus=2, base_w=250.0, throttle=0x1))[1]
    assert (row.power_w, row.power_limit_w, row.temperature_c) == (500.0, 1400.0, 51.0)
    assert (row.sm_clock_hz, row.memory_clock_hz) == (1.5e9, 2.6e9)
    # The counter has run since the machine's clock was 0, at the latest tick (0.1 s, and 0.1 / 3 s late).
    assert row.energy_j is not None
    assert 0 <= 500.0 * row.at_s - row.energy_j <= 500.0 * 0.15
    assert row.throttle_reasons == ()


def test_an_old_driver_answers_through_deprecated_calls(virtual_nvml):
    (row,) = read_once(replace(virtual_nvml, old_driver=True, throttle=0x8))
    assert (row.power_w, row.temperature_c, row.throttle_reasons) == (None, 50.0, ("hw_slowdown",))


def test_errors_say_what_is_wrong(virtual_nvml):
    with pytest.raises(UserError, match=f"unknown GPU 'GPU-7'; known: {virtual_nvml.uuid(0)}"):
        read_once(virtual_nvml, ("GPU-7",))
    with pytest.raises(MeterError, match=f"NVML cannot read .* of {virtual_nvml.uuid(0)}: GPU is lost; see nvidia-smi"):
        read_once(replace(virtual_nvml, lost=True))


def test_a_mig_slice_is_metered_by_its_board_which_says_so(virtual_nvml):
    script = virtual.Script((virtual.Board(), virtual.Board(mig=True)))
    with (
        virtual.load(script, virtual_nvml.library) as machine,
        open_meters((virtual.uuid(1).replace("GPU", "MIG"),), rapl_root=Path("/nonexistent")) as meters,
    ):
        instruments = meters.learn(machine.clock, machine.sleep)
    assert [(uuid, instrument.is_mig) for uuid, instrument in instruments.items()] == [(virtual.uuid(1), True)]


@pytest.mark.parametrize(("subject", "counted"), [("ours", [1, 2]), ("present", [0, 1])])
def test_who_is_a_doubt_on_a_board_that_was_in_use_before(virtual_nvml, subject, counted):
    # Process 4711 is there from the start; our parent, which is neither we nor its descendant, comes at 5 s.
    fault = virtual.Fault(virtual.FaultKind.OTHER_PROCESS, 5.0, value=os.getppid())
    board = virtual.Board(processes=(4711,), faults=(fault,))
    with (
        virtual.load(virtual.Script((board,)), virtual_nvml.library) as machine,
        open_meters(None, rapl_root=Path("/nonexistent"), subject=subject) as meters,
    ):
        (meter,) = meters.meters
        (first,) = meter.read(machine.clock)
        machine.set_time(6.0)
        rest = [meter.read(machine.clock)[0] for _ in range(PROCESSES_EVERY)]
    assert [first.other_processes, rest[-1].other_processes] == counted


def test_boards_for_the_environment(virtual_nvml):
    with virtual.load(replace(virtual_nvml, gpus=2).script, virtual_nvml.library):
        assert boards() == [
            Board(f"Virtual GPU {index}", virtual.uuid(index), "virtual", 80 * 2**30, has_ecc=True, is_mig=False)
            for index in range(2)
        ]
