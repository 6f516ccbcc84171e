"""The virtual NVML itself: its truth against arithmetic, its instruments and faults through the raw binding."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pynvml
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenwatt.errors import UserError
from tokenwatt.power import virtual
from tokenwatt.power.nvml import NvmlMeter
from tokenwatt.power.virtual import Board, Fault, FaultKind, Machine, Script, loads
from tokenwatt.power.virtual.library import SOURCES

RAMP = Board(knots=loads.ramp(100.0, 500.0, 10.0, 4.0), counter_period_s=1.0)
"""100 W until 10 s, 500 W from 14 s on, 100 W/s between; a counter that is renewed at full seconds."""


@contextmanager
def nvml(nvml_fixture: Any, *boards: Board, **machine: Any) -> Iterator[tuple[Machine, list[Any]]]:
    """A machine with its handles in NVML's order."""
    with virtual.load(Script(boards=boards, **machine), nvml_fixture.library) as loaded:
        pynvml.nvmlInit()
        yield loaded, [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        pynvml.nvmlShutdown()


def power_w(handle: Any, scope: int = pynvml.NVML_POWER_SCOPE_GPU) -> float:
    (value,) = pynvml.nvmlDeviceGetFieldValues(handle, [(pynvml.NVML_FI_DEV_POWER_INSTANT, scope)])
    if value.nvmlReturn:
        raise pynvml.NVMLError(value.nvmlReturn)
    return value.value.uiVal / 1e3


def error_of(function: Any, *arguments: Any) -> str:
    """Name of the error that a call ends with."""
    with pytest.raises(pynvml.NVMLError) as refused:
        function(*arguments)
    return type(refused.value).__name__


def energy_j(handle: Any) -> float:
    return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3


# --- truth


def area_j(knots: np.ndarray, start_s: float, end_s: float, cap_w: float) -> float:
    """Under straight lines, cut off: a trapezoid on every knot, edge and crossing is exact."""
    at_s, watts = knots.T
    rise_w, run_s = np.diff(watts), np.diff(at_s)
    crosses = (np.minimum(watts[1:], watts[:-1]) < cap_w) & (np.maximum(watts[1:], watts[:-1]) > cap_w)
    crossings_s = at_s[:-1][crosses] + (cap_w - watts[:-1][crosses]) / rise_w[crosses] * run_s[crosses]
    grid_s = np.unique(np.clip(np.concatenate((at_s, crossings_s, [start_s, end_s])), start_s, end_s))
    return float(np.trapezoid(np.minimum(np.interp(grid_s, at_s, watts), cap_w), grid_s))


points = st.lists(st.tuples(st.floats(0.01, 5), st.floats(0, 1000)), min_size=1, max_size=30)
moments = st.tuples(st.floats(-20, 200), st.floats(-20, 200)).map(sorted)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(points=points, window=moments, cap_w=st.floats(1, 1200))
def test_true_energy_is_the_area_under_the_lines(virtual_nvml, points, window, cap_w):
    knots = np.array(points)
    knots[:, 0] = np.cumsum(knots[:, 0])
    board = Board(knots=tuple(map(tuple, knots.tolist())), limit_w=cap_w)
    machine = Machine(virtual_nvml.library, Script((board,)).text())
    expected_j = area_j(knots, window[0], window[1], cap_w)
    assert machine.true_energy_j(0, *window) == pytest.approx(expected_j, rel=1e-9, abs=1e-6)
    assert machine.true_energy_j(0, *reversed(window)) == pytest.approx(-expected_j, rel=1e-9, abs=1e-6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(points=points, window=moments, cap_w=st.floats(1, 1200))
def test_a_repeated_load_is_its_period_laid_end_to_end(virtual_nvml, points, window, cap_w):
    knots = np.array([(0.0, 250.0), *points])
    knots[:, 0] = np.cumsum(knots[:, 0])
    board = Board(knots=tuple(map(tuple, knots.tolist())), repeat=True, limit_w=cap_w)
    machine = Machine(virtual_nvml.library, Script((board,)).text())
    period_s, turns = knots[-1, 0], np.floor(np.array(window) / knots[-1, 0])
    # From the start of the period that a moment lies in, and as many whole periods as lie between the two.
    begin_j, end_j = (
        area_j(knots, 0.0, moment - turn * period_s, cap_w) for moment, turn in zip(window, turns, strict=True)
    )
    expected_j = end_j - begin_j + (turns[1] - turns[0]) * area_j(knots, 0.0, period_s, cap_w)
    assert machine.true_energy_j(0, *window) == pytest.approx(expected_j, rel=1e-9, abs=1e-3)


def test_an_upright_edge_belongs_to_the_later_level(virtual_nvml):
    with nvml(virtual_nvml, Board(knots=loads.square(100.0, 400.0, 2.0), repeat=True)) as (machine, (handle,)):
        for at_s, watts in ((0.0, 100.0), (0.999, 100.0), (1.0, 400.0), (1.999, 400.0), (2.0, 100.0), (-0.5, 400.0)):
            machine.set_time(at_s)
            assert power_w(handle) == watts
        # 1 s at 100 W and 1 s at 400 W, three times.
        assert machine.true_energy_j(0, 0.0, 6.0) == pytest.approx(1500.0)


def test_the_smallest_moment_before_a_repeated_load_is_folded_once(virtual_nvml):
    machine = Machine(virtual_nvml.library, Script((Board(knots=loads.square(100.0, 400.0, 2.0), repeat=True),)).text())
    assert machine.true_energy_j(0, -5e-324, 1.0) == pytest.approx(100.0)


def test_no_board_has_no_energy(virtual_nvml):
    machine = Machine(virtual_nvml.library, Script((RAMP,)).text())
    assert np.isnan(machine.true_energy_j(1, 0.0, 1.0))


# --- instruments


def test_the_counter_is_the_truth_at_its_last_renewal(virtual_nvml):
    board = replace(RAMP, counter_phase_s=0.25, counter_gain=1.5)
    with nvml(virtual_nvml, board) as (machine, (handle,)):
        machine.set_time(12.2)
        # Renewed at 11.25 s: 1.5 x (10 s x 100 W + 1.25 s x 162.5 W) = 1.5 x 1203.125 J.
        assert energy_j(handle) == pytest.approx(1804.687, abs=1e-3)
        machine.set_time(12.25)
        # 1.5 x (1000 J + 2.25 s x 212.5 W).
        assert energy_j(handle) == pytest.approx(2217.187, abs=1e-3)


def test_jitter_moves_each_renewal_by_up_to_half_of_it(virtual_nvml):
    board = replace(RAMP, knots=loads.constant(1000.0), limit_w=1000.0, counter_jitter_s=0.4)
    with nvml(virtual_nvml, board, seed=3) as (machine, (handle,)):
        machine.set_time(100.5)
        renewals_s = []
        for second in range(100, 160):
            machine.set_time(second + 0.5)
            renewals_s.append(energy_j(handle) / 1000.0 - second)
    assert -0.2 <= min(renewals_s) < -0.15
    assert 0.15 < max(renewals_s) <= 0.2


def test_a_walk_makes_spacings_uneven_and_never_comes_back(virtual_nvml):
    board = Board(knots=loads.constant(1000.0), limit_w=1000.0, counter_period_s=1.0, counter_walk_s=0.4)
    with nvml(virtual_nvml, board, seed=3) as (machine, (handle,)):
        renewals_s = []
        for tenth in range(4000):
            machine.set_time(0.1 * tenth)
            renewals_s.append(energy_j(handle) / 1000.0)
    spacings_s = np.diff(np.unique(np.round(renewals_s, 6)))
    # 1000 W: a kilojoule is a second. Spacings are even from 0.8 to 1.2 s, their standard deviation is 0.4 / sqrt(12).
    assert 0.8 <= min(spacings_s[1:]) < 0.82
    assert 1.18 < max(spacings_s) <= 1.2
    assert np.std(spacings_s[1:]) == pytest.approx(0.1155, rel=0.1)
    # Steps do not undo each other, as those of jitter do, whose neighbours go together by -1/2.
    assert abs(np.corrcoef(spacings_s[1:-1], spacings_s[2:])[0, 1]) < 0.15


def test_the_power_reading_is_renewed_averaged_scaled(virtual_nvml):
    board = replace(RAMP, power_period_s=0.5, power_phase_s=0.1, power_average_s=2.0, power_gain=1.1)
    with nvml(virtual_nvml, board) as (machine, (handle,)):
        machine.set_time(13.5)
        # Renewed at 13.1 s: the mean from 11.1 s (210 W) to 13.1 s (410 W) is 310 W.
        assert power_w(handle) == pytest.approx(341.0)
        # The other call's average of a second does not wait for a renewal: from 350 W at 12.5 s to 450 W at 13.5 s.
        assert pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3 == pytest.approx(440.0)


def test_noise_has_its_size_and_no_mean(virtual_nvml):
    board = Board(knots=loads.constant(400.0), power_noise_w=5.0, power_period_s=0.1)
    with nvml(virtual_nvml, board, seed=7) as (machine, (handle,)):
        readings = []
        for tenth in range(4000):
            machine.set_time(0.1 * tenth + 0.05)
            readings.append(power_w(handle))
        machine.set_time(0.06)
        assert power_w(handle) == readings[0]
        assert machine.true_energy_j(0, 0.0, 400.0) == pytest.approx(160e3)
    # The mean of 4000 is within 5 / sqrt(4000) = 0.08 W, here three times that; the deviation within some 1 %.
    assert np.mean(readings) == pytest.approx(400.0, abs=0.24)
    assert np.std(readings) == pytest.approx(5.0, rel=0.05)


def test_a_call_takes_its_time_and_answers_for_its_middle(virtual_nvml):
    board = replace(RAMP, latency_s=0.1, counter_latency_s=0.2, power_latency_s=0.4)
    with nvml(virtual_nvml, board) as (machine, (handle,)):
        machine.set_time(12.0)
        assert power_w(handle) == pytest.approx(320.0)  # at 12.2 s
        assert machine.clock() == pytest.approx(12.4)
        energy_j(handle)
        assert machine.clock() == pytest.approx(12.6)
        pynvml.nvmlDeviceGetEccMode(handle)
        assert machine.clock() == pytest.approx(12.7)
        machine.sleep(1.0)
        assert machine.clock() == pytest.approx(13.7)


def test_a_module_draws_more_than_its_gpu(virtual_nvml):
    board = Board(module_extra_w=120.0, counter_module=True)
    with nvml(virtual_nvml, board, Board()) as (machine, (module, single)):
        machine.set_time(10.0)
        assert power_w(module) == 300.0
        assert power_w(module, pynvml.NVML_POWER_SCOPE_MODULE) == 420.0
        assert energy_j(module) == pytest.approx(4200.0)
        assert error_of(power_w, single, pynvml.NVML_POWER_SCOPE_MODULE) == "NVMLError_NotSupported"


# --- faults


def read(handle: Any) -> tuple[float | str, float | str]:
    """The counter and the power, or the names of their errors."""

    def attempt(function: Any) -> float | str:
        try:
            return round(function(handle), 3)
        except pynvml.NVMLError as error:
            return type(error).__name__

    return attempt(energy_j), attempt(power_w)


@pytest.mark.parametrize(
    ("fault", "before", "during", "after"),
    [
        # At 11 s, 12.5 s and 16.5 s the counter's last renewals are at 11, 12 and 16 s: 1150, 1400 and 3200 J.
        (Fault(FaultKind.STUCK_COUNTER, 11.5, 15.0), (1150, 200), (1150, 350), (3200, 500)),
        # From 12 s on it has 1400 J less.
        (Fault(FaultKind.COUNTER_RESET, 12.0, 12.0), (1150, 200), (0, 350), (1800, 500)),
        (Fault(FaultKind.NO_COUNTER, 11.5, 15.0), (1150, 200), ("NVMLError_NotSupported", 350), (3200, 500)),
        (Fault(FaultKind.NO_POWER, 11.5, 15.0), (1150, 200), (1400, "NVMLError_NotSupported"), (3200, 500)),
        (Fault(FaultKind.ZERO_POWER, 11.5, 15.0), (1150, 200), (1400, 0), (3200, 500)),
        (Fault(FaultKind.FROZEN_POWER, 11.5, 15.0), (1150, 200), (1400, 250), (3200, 500)),
        (Fault(FaultKind.DROP, 11.5, 15.0), (1150, 200), ("NVMLError_Unknown",) * 2, (3200, 500)),
        (Fault(FaultKind.DROP, 11.5, 15.0, 10), (1150, 200), ("NVMLError_Timeout",) * 2, (3200, 500)),
        (Fault(FaultKind.LOST, 11.5, 15.0), (1150, 200), ("NVMLError_GpuIsLost",) * 2, ("NVMLError_GpuIsLost",) * 2),
        # 250 W are reached at 11.5 s and held until 15 s: at 12 s 1262.5 + 125, at 16 s 1262.5 + 875 + 500 J.
        (Fault(FaultKind.CAP, 11.5, 15.0, 250.0), (1150, 200), (1387.5, 250), (2637.5, 500)),
    ],
    ids=lambda value: f"{value.kind}-{value.value}" if isinstance(value, Fault) else "",
)
def test_a_fault_changes_what_is_read_while_it_lasts(virtual_nvml, fault, before, during, after):
    with nvml(virtual_nvml, replace(RAMP, faults=(fault,))) as (machine, (handle,)):
        for at_s, expected in ((11.0, before), (12.5, during), (16.5, after)):
            machine.set_time(at_s)
            assert read(handle) == expected


def test_faults_of_state(virtual_nvml):
    faults = (
        Fault(FaultKind.THROTTLE, 1.0, 2.0, 0x40),
        Fault(FaultKind.CAP, 1.0, 2.0, 400.0),
        Fault(FaultKind.OTHER_PROCESS, 1.0, 2.0, 4711),
    )
    with nvml(virtual_nvml, Board(throttle=0x4, faults=faults)) as (machine, (handle,)):
        seen = []
        for at_s in (0.5, 1.5, 2.5):
            machine.set_time(at_s)
            pids = [process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
            bits = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
            seen.append((bits, pynvml.nvmlDeviceGetEnforcedPowerLimit(handle), pids))
        assert pynvml.nvmlDeviceGetPowerManagementLimit(handle) == 700_000
    assert seen == [(0x4, 700_000, []), (0x44, 400_000, [4711]), (0x4, 700_000, [])]


def test_what_a_board_does_not_support(virtual_nvml):
    with nvml(virtual_nvml, Board(no_counter=True), Board(no_instant=True)) as (machine, (first, second)):
        machine.set_time(1.0)
        assert read(first) == ("NVMLError_NotSupported", 300)
        assert read(second) == (300, "NVMLError_NotSupported")
    with nvml(virtual_nvml, Board(), old_driver=True, driver="390.1") as (machine, (handle,)):
        assert read(handle)[1] == "NVMLError_InvalidArgument"
        assert pynvml.nvmlSystemGetDriverVersion() == "390.1"
        assert pynvml.nvmlDeviceGetTemperature(handle, 0) == 50
        assert error_of(pynvml.nvmlDeviceGetTemperatureV, handle, 0) == "NVMLError_FunctionNotFound"


# --- limits


def test_a_limit_cuts_off_the_power_from_when_it_is_set(virtual_nvml):
    board = Board(knots=loads.constant(600.0), may_set_limit=True)
    with nvml(virtual_nvml, board, board) as (machine, (handle, other)):
        machine.set_time(10.0)
        pynvml.nvmlDeviceSetPowerManagementLimit(handle, 400_000)
        assert (power_w(handle), power_w(other)) == (400.0, 600.0)
        machine.set_time(15.0)
        pynvml.nvmlDeviceSetPowerManagementLimit(handle, 700_000)
        machine.set_time(20.0)
        # 600 W x 15 s + 400 W x 5 s.
        assert machine.true_energy_j(0, 0.0, 20.0) == pytest.approx(11_000.0)
        assert energy_j(handle) == pytest.approx(11_000.0)
        assert energy_j(other) == pytest.approx(12_000.0)
        assert pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle) == 700_000
        assert pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle) == [200_000, 700_000]
        for refused_mw in (199_999, 700_001):
            refusal = error_of(pynvml.nvmlDeviceSetPowerManagementLimit, handle, refused_mw)
            assert refusal == "NVMLError_InvalidArgument"
    with nvml(virtual_nvml, Board()) as (_, (handle,)):
        refusal = error_of(pynvml.nvmlDeviceSetPowerManagementLimit, handle, 400_000)
        assert refusal == "NVMLError_NoPermission"


def test_processes_share_limits_through_a_file(virtual_nvml, tmp_path):
    board = Board(knots=loads.constant(600.0), may_set_limit=True)
    script = Script((board, board), clock="monotonic", limit_file=tmp_path / "limits")
    program = (
        "import pynvml; pynvml.nvmlInit(); handle = pynvml.nvmlDeviceGetHandleByIndex(1)\n"
        "print(pynvml.nvmlDeviceGetPowerManagementLimit(handle))\n"
        "pynvml.nvmlDeviceSetPowerManagementLimit(handle, {limit_mw})\n"
        "print(pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))"
    )

    def set_limit(limit_mw: int) -> list[str]:
        command = [sys.executable, "-c", program.format(limit_mw=limit_mw)]
        environment = virtual_nvml.library.environment(script)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()

    assert set_limit(300_000) == ["700000", "300000"]
    with nvml(virtual_nvml, *script.boards, clock="monotonic", limit_file=script.limit_file) as (_, handles):
        limits_mw = [pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) for handle in handles]
        assert limits_mw == [700_000, 300_000]
        assert power_w(handles[1]) == 300.0
        assert set_limit(500_000) == ["300000", "500000"]
        assert power_w(handles[1]) == 500.0


# --- boards


def test_index_order_differs_from_the_numbers_in_uuids(virtual_nvml):
    boards = [Board(knots=loads.constant(100.0 * number), name=f"board {number}") for number in (1, 2, 3)]
    with nvml(virtual_nvml, *boards, order=(2, 0, 1)) as (machine, handles):
        machine.set_time(1.0)
        assert [pynvml.nvmlDeviceGetUUID(handle) for handle in handles] == [virtual.uuid(n) for n in (2, 0, 1)]
        assert [pynvml.nvmlDeviceGetName(handle) for handle in handles] == ["board 3", "board 1", "board 2"]
        assert [power_w(handle) for handle in handles] == [300.0, 100.0, 200.0]
        first = pynvml.nvmlDeviceGetHandleByUUID(virtual.uuid(0))
        assert (pynvml.nvmlDeviceGetIndex(first), pynvml.nvmlDeviceGetMinorNumber(first)) == (1, 0)


def test_a_slice_leads_to_its_board_and_has_no_meter(virtual_nvml):
    slice_uuid = virtual.uuid(1).replace("GPU", "MIG")
    with nvml(virtual_nvml, Board(), Board(mig=True, ecc=False)) as (_, (whole, cut)):
        assert (pynvml.nvmlDeviceGetMigMode(whole), pynvml.nvmlDeviceGetMigMode(cut)) == ([0, 0], [1, 1])
        assert (pynvml.nvmlDeviceGetEccMode(whole), pynvml.nvmlDeviceGetEccMode(cut)) == ([1, 1], [0, 0])
        part = pynvml.nvmlDeviceGetHandleByUUID(slice_uuid)
        assert pynvml.nvmlDeviceGetUUID(part) == slice_uuid
        board = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)
        assert pynvml.nvmlDeviceGetUUID(board) == virtual.uuid(1)
        assert read(part) == ("NVMLError_NotSupported",) * 2
        absent_uuid = virtual.uuid(0).replace("GPU", "MIG")
        assert error_of(pynvml.nvmlDeviceGetHandleByUUID, absent_uuid) == "NVMLError_NotFound"


def test_processes_on_a_board_by_every_version_of_the_call(virtual_nvml):
    with nvml(virtual_nvml, Board(processes=(123, "self")), Board()) as (_, (busy, idle)):
        for call in ("", "_v2", "_v3"):
            list_processes = getattr(pynvml, f"nvmlDeviceGetComputeRunningProcesses{call}")
            assert [process.pid for process in list_processes(busy)] == [123, os.getpid()]
            assert list_processes(idle) == []


def test_temperature_and_clocks(virtual_nvml):
    board = Board(temperature_c=40.0, temperature_slope_c_per_s=0.5, sm_clock_mhz=1980.0, memory_clock_mhz=2619.0)
    with nvml(virtual_nvml, board) as (machine, (handle,)):
        machine.set_time(20.0)
        assert pynvml.nvmlDeviceGetTemperatureV(handle, pynvml.NVML_TEMPERATURE_GPU) == 50
        clocks = [pynvml.nvmlDeviceGetClockInfo(handle, kind) for kind in (pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM)]
        assert clocks == [1980, 2619]


# --- scripts and loading


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("at = 0 300\nfoo = 1", "line 2: unknown key 'foo'; known: at clock driver fault limit_file"),
        ("board.1.foo = 1", "line 1: unknown key 'board.1.foo'"),
        ("board.16.at = 0 1", "line 1: a board must be 0 to 15, got 'board.16.at'"),
        ("\n# note\nlimit_w = much", "line 3: limit_w must be a number from 1 to 1000000, got 'much'"),
        ("limit_w = nan", "line 1: limit_w must be a number"),
        ("limit_w", "line 1: expected key = value, got 'limit_w'"),
        ("ecc = 0.5", "line 1: ecc must be a whole number from 0 to 1, got '0.5'"),
        ("clock = sundial", "line 1: clock must be monotonic or manual, got 'sundial'"),
        ("at = 0", "line 1: at must be a time and watts >= 0, got '0'"),
        ("at = 0 -5", "line 1: at must be a time and watts >= 0, got '0 -5'"),
        ("at = 5 1\nat = 4 1", "line 2: at must not go back in time, got 4 after 5"),
        ("fault = flood 0 1", "line 1: unknown fault 'flood'; known: stuck_counter counter_reset no_counter"),
        ("fault = cap 0 1", "line 1: fault must be NAME FROM TO VALUE, FROM <= TO, got 'cap 0 1'"),
        ("fault = lost 2 1", "line 1: fault must be NAME FROM TO, FROM <= TO, got 'lost 2 1'"),
        ("processes = me", "line 1: processes must be numbers or self, got 'me'"),
        ("at = 0 1\nboards = 2\norder = 0,0", "order must name each of 2 boards once"),
        ("at = 0 1\norder = 32", "order must name each of 1 boards once"),
        ("boards = 2\nboard.1.at = 0 1", "board 0 has no power: give it a line such as at = 0 300"),
        ("at = 1 1\nrepeat = 1", "board 0 repeats: its first point must be at 0 and its last later"),
        ("at = 0 1\ncounter_jitter_s = 1", "board 0: counter_jitter_s must be <= counter_period_s"),
        (
            "at = 0 1\ncounter_walk_s = 0.21",
            "board 0: counter_walk_s must be <= 2 * (counter_period_s - counter_jitter_s)",
        ),
        ("at = 0 1\nmin_limit_w = 800", "board 0: min_limit_w must be <= max_limit_w"),
    ],
)
def test_a_wrong_script_is_refused_in_one_line(virtual_nvml, text, message):
    with pytest.raises(UserError) as refused:
        virtual_nvml.library.check(text, where="my.script")
    assert str(refused.value).startswith(f"my.script: {message}")
    assert "\n" not in str(refused.value)


def test_a_wrong_script_file_keeps_nvml_from_starting(virtual_nvml, tmp_path):
    program = "import pynvml; pynvml.nvmlInit()"
    environment = virtual_nvml.environment
    for path, text in ((tmp_path / "wrong.script", "foo = 1"), (tmp_path / "absent.script", None)):
        if text is not None:
            path.write_text(text)
        environment["VIRTUAL_NVML_SCRIPT"] = str(path)
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.stderr.splitlines()[-1] == "pynvml.NVMLError_Unknown: Unknown Error"


def test_lines_for_all_boards_and_for_one(virtual_nvml):
    text = "boards = 3  # three\nboard.1.at = 0 111\nat = 0 222\nlimit_w = 500\nboard.2.limit_w = 600\nclock = manual\n"
    with virtual.load(text, virtual_nvml.library):
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(3)]
        assert [power_w(handle) for handle in handles] == [222.0, 111.0, 222.0]
        assert [pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) // 1000 for handle in handles] == [500, 500, 600]
        pynvml.nvmlShutdown()


def test_every_number_of_a_board_reaches_the_library(virtual_nvml):
    known = {field.name for field in fields(Board)} - {"knots", "faults", "name", "processes"}
    with pytest.raises(UserError) as refused:
        virtual_nvml.library.check("foo = 1")
    keys = set(str(refused.value).partition("known: ")[2].split())
    machine = {"clock", "epoch_s", "seed", "boards", "order", "driver", "old_driver", "limit_file"}
    assert keys == known | machine | {"at", "fault", "name", "processes"}


def test_defaults_of_python_and_of_the_library_are_the_same(virtual_nvml):
    def seen(text: str) -> list[Any]:
        with virtual.load(text, virtual_nvml.library) as machine:
            (meter,) = filter(None, [NvmlMeter.open(None)])
            machine.set_time(5.0)
            samples = meter.read(machine.clock)
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            limits = pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
            modes = pynvml.nvmlDeviceGetEccMode(handle), pynvml.nvmlDeviceGetMigMode(handle)
            meter.close()
        return [samples, limits, modes]

    assert seen(Script().text()) == seen("at = 0 300\nclock = manual\n")


def test_nvml_started_again_goes_on_counting(virtual_nvml):
    program = (
        "import pynvml, time\n"
        "for _ in range(2):\n"
        "    pynvml.nvmlInit(); handle = pynvml.nvmlDeviceGetHandleByIndex(0)\n"
        "    time.sleep(0.05); print(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)); pynvml.nvmlShutdown()"
    )
    board = Board(knots=loads.constant(500.0), counter_period_s=0.001)
    environment = virtual_nvml.library.environment(Script((board,), clock="monotonic"))
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    first_mj, second_mj = map(int, done.stdout.split())
    # 500 W since the first start: at least 24.5 J in 49 ms, and as much again.
    assert first_mj >= 24_500
    assert second_mj >= first_mj + 24_500


def test_the_binding_is_given_back(virtual_nvml):
    before = pynvml.nvmlLib
    with nvml(virtual_nvml, Board()):
        assert pynvml.nvmlLib is not before
    assert pynvml.nvmlLib is before
    assert not pynvml._nvmlGetFunctionPointer_cache


def test_the_library_compiles_without_a_warning(virtual_nvml):
    """(Where there is a compiler: the fixture says so.)"""
    compiler = shutil.which("cc") or "gcc"
    strict = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    subprocess.run([compiler, *strict, *SOURCES], check=True)


def test_without_a_compiler_the_person_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no C compiler was found \(cc or gcc\); install gcc"):
        virtual.build(Path(tmp_path))
