"""The log of readings: small, whole while it grows, and the same in columns as it was in samples."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt import store
from tokenwatt.power import PowerLog, integrate, power_tables
from tokenwatt.power.log import BLOCK, QUANTITIES
from tokenwatt.record import EnergyStatus, PowerRecord, PowerSample, Reason
from tokenwatt.schema import arrow_schema


def sample(number: int, source: str = "GPU-a") -> PowerSample:
    """The n-th of a series in which no two quantities are equal; every fourth reading has the board's state."""
    known = PowerSample(0.5 * number, source, energy_j=50.0 * number, power_w=100.0 + number % 7, call_s=1e-3 * number)
    if number % 4:
        return known
    return known._replace(
        sm_clock_hz=1.5e9 + number,
        memory_clock_hz=2.6e9 + number,
        temperature_c=40.0 + number % 11,
        power_limit_w=700.0 + number % 3,
        throttle_reasons=(("sw_power_cap",), (), ("hw_slowdown", "sync_boost"))[number // 4 % 3],
        module_power_w=900.0 + number % 5,
        other_processes=number % 2,
        unmetered_gpus=number % 3,
    )


def test_a_reading_takes_a_hundred_bytes():
    # Eleven quantities and the place of its throttle reasons, 8 bytes each: 96. An hour of a board is 14 blocks.
    # Python itself keeps the memory of 2000 tuples for the next ones: another 5 bytes of a reading here.
    log, readings = PowerLog(), 14 * BLOCK
    tracemalloc.start()
    log.extend(sample(number) for number in range(readings))
    held_bytes, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held_bytes / readings < 105
    assert peak_bytes < held_bytes + 10_000  # a block never moves
    assert len(log.readings()["GPU-a"]) == readings


def test_every_field_of_a_sample_is_a_column_of_the_table():
    assert (*PowerSample._fields, "run_id", "measurement_id") == tuple(PowerRecord.model_fields)
    assert {*QUANTITIES, "source", "throttle_reasons"} == {*PowerSample._fields}


def test_readings_are_written_as_they_were_taken(tmp_path, monkeypatch):
    # Two boards, over three blocks and, in parts of 1000 rows, many parts; B has one reading, and nothing but a time.
    monkeypatch.setattr("tokenwatt.power.table.PART", 1000)
    samples = [sample(number) for number in range(2 * BLOCK + 10)]
    log = PowerLog([*samples[:5], PowerSample(1.0, "GPU-b"), *samples[5:]])
    path = store.write_tables(power_tables(log.readings(), "r", "r/0"), PowerRecord, tmp_path)
    rows = store.read_beside(path, PowerRecord)
    place = {"run_id": "r", "measurement_id": "r/0"}
    expected = [PowerRecord(**place, **each._asdict()) for each in [*samples, PowerSample(1.0, "GPU-b")]]
    again = store.to_table(expected, PowerRecord)
    assert rows.equals(again.to_pandas())
    for part in power_tables(log.readings(), **place):
        assert part.schema.equals(arrow_schema(PowerRecord), check_metadata=True)
    assert store.read(path, PowerRecord)["energy_j"].isna().sum() == 1


def test_no_readings_are_a_table_without_rows(tmp_path):
    store.write_tables(power_tables({}, "r", "r/0"), PowerRecord, tmp_path)
    assert store.read(tmp_path, PowerRecord).empty


def test_small_tables_are_written_together(tmp_path):
    table = store.to_table([], PowerRecord)
    rows = list(power_tables(PowerLog(sample(number) for number in range(10)).readings(), "r", "r/0"))
    path = store.write_tables([table, *rows * 5], PowerRecord, tmp_path)
    assert len(store.read(path, PowerRecord)) == 50
    assert pq.ParquetFile(path).num_row_groups == 1


@given(
    readings=st.integers(0, 2 * BLOCK + 2),
    start_s=st.floats(-10.0, BLOCK + 10.0),
    end_s=st.floats(-10.0, BLOCK + 10.0),
)
def test_a_stretch_of_time_has_the_readings_in_it(readings: int, start_s: float, end_s: float):
    log = PowerLog(PowerSample(0.5 * number, "GPU-a", power_w=number) for number in range(readings))
    stretch = log.readings(start_s, end_s)
    expected = [number for number in range(readings) if start_s <= 0.5 * number <= end_s]
    assert (list(stretch["GPU-a"].column("power_w")) if stretch else []) == expected


def test_what_was_asked_for_stays_as_it_was_while_the_log_grows():
    log = PowerLog(sample(number) for number in range(BLOCK - 1))
    readings = log.readings()["GPU-a"]
    log.extend(sample(number) for number in range(BLOCK - 1, BLOCK + 2))
    assert len(readings) == len(readings.column("at_s")) == len(readings.column("call_s")) == BLOCK - 1
    assert readings.column("at_s")[-1] == 0.5 * (BLOCK - 2)
    assert len(log.readings()["GPU-a"]) == BLOCK + 2


def test_throttle_reasons_of_a_stretch_are_those_of_its_readings():
    readings = PowerLog(sample(number) for number in range(12)).readings()["GPU-a"]
    assert readings.throttle_reasons() == {"sw_power_cap", "hw_slowdown", "sync_boost"}
    assert readings.between(2.0, 3.5).throttle_reasons() == set()  # readings 4 to 7
    assert readings.between(4.0, 5.5).throttle_reasons() == {"hw_slowdown", "sync_boost"}  # 8 to 11


@pytest.mark.parametrize("nonsense", ["n/a", (1.0, 2.0), object()])
def test_what_is_no_number_is_refused_and_leaves_the_log_whole(nonsense):
    log = PowerLog([sample(0)])
    with pytest.raises((TypeError, ValueError)):
        log.extend([sample(1)._replace(power_w=nonsense)])
    log.extend([sample(2)])
    assert list(log.readings()["GPU-a"].column("at_s")) == [0.0, 1.0]


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_no_reading(nonsense):
    # 100 W for 20 s; two neighbours of 0.5 s are missing, which is no gap over three periods.
    samples = [PowerSample(0.5 * n, "GPU-a", energy_j=50.0 * n, power_w=100.0) for n in range(41)]
    samples[20] = samples[20]._replace(power_w=nonsense, other_processes=0)
    samples[21] = samples[21]._replace(energy_j=nonsense)
    energy = integrate(PowerLog(samples).readings(), 2.0, 18.0)
    assert (energy.status, energy.counter_j, energy.sampled_j) == (EnergyStatus.VALID, 1600.0, 1600.0)
    assert energy.state.power_peak_w == 100.0


def test_power_below_zero_is_held_against_the_counter():
    samples = [PowerSample(0.5 * n, "GPU-a", energy_j=50.0 * n, power_w=-100.0 - n % 2) for n in range(41)]
    energy = integrate(PowerLog(samples).readings(), 2.0, 18.0)
    assert (energy.status, energy.gpu_energy_j) == (EnergyStatus.SUSPECT, 1600.0)
    assert energy.reasons == (Reason.INSTRUMENTS_DISAGREE,)


def test_a_column_is_a_copy():
    readings = PowerLog([sample(0), sample(1)]).readings()["GPU-a"]
    readings.column("power_w")[0] = 0.0
    assert np.array_equal(readings.column("power_w"), [100.0, 101.0])
