"""Runs on disk, made of plain rows. No GPU has measured them: they are written into folders of tests alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.factories import measurement, result, timing_row

from tokenwatt import invocation, store
from tokenwatt.record import (
    ClosureTerm,
    EnergyStatus,
    KernelTiming,
    Measurement,
    PowerRecord,
    Record,
    RequestRecord,
    Result,
)

BOARD = {"device": "cuda", "gpu_name": "Board", "gpu_count": 1, "gpu_uuids": ("GPU-1",), "gpu_driver_version": "580.1"}
METERED = {"energy_status": EnergyStatus.VALID, "gpu_energy_j": 600.0, "window_start_s": 1.0, "window_s": 2.0}

MakeRun = Callable[..., Path]


def at(hour: int) -> datetime:
    """An hour of the day of the tests."""
    return datetime(2026, 1, 1, hour, tzinfo=UTC)


def place(run_id: str, index: int = 0, hour: int = 0) -> dict[str, Any]:
    """Columns that place a row in its run."""
    began = {"measured_at": at(hour), "run_began_at": at(hour)}
    return {"run_id": run_id, "measurement_id": f"{run_id}/{index}", **began}


def window(run_id: str, index: int = 0, hour: int = 0, **changes: Any) -> Measurement:
    """A metered window of 1,000 tokens in 2 s and 600 J: 500 tokens/s, 0.6 J/token, 300 W."""
    columns = {"engine": "native", "model": "Qwen3-8B", "dtype": "bfloat16", "weights_source": "random"}
    columns |= {"output_tokens": 1000, "point_id": f"{run_id}/p0", "is_stable": True, "gpu_power_limit_w": 700.0}
    return measurement(**{**BOARD, **METERED, **place(run_id, index, hour), **columns, **changes})


def mean(run_id: str, quantity: str, value: float, half: float | None = None, **changes: Any) -> Result:
    """What the windows of the point of `window` say of a quantity, with half of its interval."""
    units = {"joules_per_output_token": "J/token", "gpu_power_w": "W", "output_tokens_per_s": "token/s"}
    ends = (None, None) if half is None else (value - half, value + half)
    named = {"run_id": run_id, "point_id": f"{run_id}/p0", "engine": "native", "model": "Qwen3-8B"}
    return result(value, *ends, **{**named, "quantity": quantity, "unit": units[quantity], **changes})


def call(run_id: str, index: int = 0, hour: int = 0, **changes: Any) -> KernelTiming:
    """Our kernel, metered: 2 ms at a limit of 1.25 ms, 1,000 calls of 0.6 J."""
    return timing_row(**{**BOARD, **METERED, "window_calls": 1000, **place(run_id, index, hour), **changes})


def baseline(run_id: str, index: int, name: str, median_s: float, hour: int = 0, **changes: Any) -> KernelTiming:
    """A baseline of the same problem, metered."""
    times = {"contender": name, "configuration": "", "median_s": median_s, "low_s": median_s, "high_s": median_s}
    return call(run_id, index, hour, **{**times, **changes})


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run("r", kernels=[...])` -> its folder, as a bench leaves it."""

    def make(run_id: str, is_finished: bool = True, **tables: Sequence[Record]) -> Path:
        folder = tmp_path / "raw" / run_id
        for kind in (Measurement, Result, KernelTiming, ClosureTerm, PowerRecord, RequestRecord):
            if kind.grain in tables:
                store.write(tables[kind.grain], kind, folder)
        if is_finished:
            invocation.write(folder, ["bench", "energy", "--results", "/somewhere/raw"])
        return folder

    return make
