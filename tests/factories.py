"""Rows and timelines for tests: plain good ones, whose parts a test replaces."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from tokenwatt.engines.protocol import TokenEvent
from tokenwatt.load import Listed, Load, Sent
from tokenwatt.record import (
    OUR_KERNEL,
    ClosureTerm,
    EnergyStatus,
    Environment,
    KernelTiming,
    Measurement,
    PowerRecord,
    RequestRecord,
    RequestStatus,
    Result,
    Status,
)
from tokenwatt.steady_state import Timeline
from tokenwatt.workloads import Request


def measurement(**changes) -> Measurement:
    """A plain good row; `changes` replace columns."""
    columns = {
        "device": "cpu",
        "gpu_name": None,
        "gpu_count": 0,
        "gpu_uuids": (),
        "gpu_driver_version": None,
        "cpu_name": "cpu",
        "cpu_count": 2,
        "memory_bytes": 8 * 2**30,
        "os_name": "Linux",
        "python_version": "3.11",
        "torch_version": None,
        "triton_version": None,
        "tokenwatt_version": "0",
        "git_commit": None,
        "ceiling_memory_bytes_per_s": None,
        "ceiling_flop_per_s": None,
        "run_id": "r",
        "measurement_id": "r/0",
        "measured_at": datetime(2026, 1, 1, tzinfo=UTC),
        "run_began_at": datetime(2026, 1, 1, tzinfo=UTC),
        "point_id": "r/p0",
        "status": Status.OK,
        "suite": "s",
        "workload": "w",
        "workload_sha256": "0",
        "engine": "fake",
        "engine_version": "0",
        "model": None,
        "weights_source": "none",
        "dtype": None,
        "seed": 0,
        "concurrency": 1,
        "window_s": 2.0,
        "output_tokens": 10,
    }
    return Measurement.model_validate({**columns, **changes})


def timing_row(**changes: Any) -> KernelTiming:
    """A plain measured row of a kernel; `changes` replace columns."""
    plain = measurement()
    shared = [*Environment.model_fields, "run_id", "measurement_id", "measured_at", "run_began_at"]
    columns = {
        **{name: getattr(plain, name) for name in shared},
        "gpu_name": "Board",
        "ceiling_flop_per_s": 4e12,
        "ceiling_memory_bytes_per_s": 8e11,
        "family": "matmul.dense",
        "problem": "llama3.1-8b_gate_up_m4096",
        "dtype": "bfloat16",
        "contender": OUR_KERNEL,
        "configuration": "tile 64",
        "status": "measured",
        "flop": 4 * 10**9,
        "bytes": 10**9,
        "median_s": 2e-3,
        "low_s": 1e-3,
        "high_s": 3e-3,
        "samples": 12,
    }
    return KernelTiming.model_validate({**columns, **changes})


def result(mean: float, low: float | None = None, high: float | None = None, **changes) -> Result:
    """Joules per output token of the point of `measurement`, with its interval; `changes` replace columns."""
    columns = {
        "run_id": "r",
        "point_id": "r/p0",
        "suite": "s",
        "workload": "w",
        "engine": "fake",
        "model": None,
        "phase": "mixed",
        "variant": None,
        "load": "closed",
        "concurrency": 1,
        "request_rate_per_s": None,
        "replay_speed": None,
        "requests_at_once": None,
        "gpu_power_cap_w": None,
        "windows": 5,
        "quantity": "joules_per_output_token",
        "unit": "J/token",
        "mean": mean,
        "low": low,
        "high": high,
        "method": None if low is None else "t",
        "has_converged": None,
        "stable_windows": 5,
        "energy_status": EnergyStatus.VALID,
    }
    return Result.model_validate({**columns, **changes})


def closure_term(term: str, energy_j: float, **changes) -> ClosureTerm:
    """One term of the window of `measurement`; `changes` replace columns."""
    columns = {"run_id": "r", "measurement_id": "r/0", "term": term, "energy_j": energy_j}
    return ClosureTerm.model_validate({**columns, **changes})


def reading(at_s: float, power_w: float | None, **changes) -> PowerRecord:
    """One reading of a board during the window of `measurement`; `changes` replace columns."""
    columns = {
        "at_s": at_s,
        "source": "GPU-1",
        "energy_j": None,
        "power_w": power_w,
        "sm_clock_hz": None,
        "memory_clock_hz": None,
        "temperature_c": None,
        "power_limit_w": None,
        "run_id": "r",
        "measurement_id": "r/0",
    }
    return PowerRecord.model_validate({**columns, **changes})


def request_row(index: int, **changes: Any) -> RequestRecord:
    """One complete request of the window of `measurement`; `changes` replace columns."""
    columns = {
        "run_id": "r",
        "measurement_id": "r/0",
        "request_index": index,
        "isl": 10,
        "osl": 20,
        "output_tokens": 20,
        "conversation": index,
        "turn": 0,
        "due_s": 0.5 * index,
        "sent_s": 0.5 * index,
        "first_token_s": 0.5 * index + 0.1,
        "last_token_s": 0.5 * index + 0.4,
        "is_ramp": False,
        "status": RequestStatus.COMPLETE,
    }
    return RequestRecord.model_validate({**columns, **changes})


def closed(requests: Iterable[Request], concurrency: int) -> Load:
    """These requests in a closed loop, none of them in mid-life."""
    return Load.closed(Listed(tuple(requests)), concurrency)


def sent(index: int, isl: int = 4, osl: int = 1000, at_s: float = 0.0, is_ramp: bool = False) -> Sent:
    """A request as it went out, at the moment at which it was due."""
    return Sent(index, isl, osl, at_s, at_s, is_ramp, conversation=index, turn=0)


def lockstep(
    first_tokens_s: tuple[float, ...],
    period_s: float,
    until_s: float,
    ends_s: tuple[float | None, ...] | None = None,
    concurrency: int | None = None,
    running: int | None = None,
) -> Timeline:
    """Slots that answer at the given instants and then emit one token every `period_s`."""
    slots = concurrency or len(first_tokens_s)
    timeline = Timeline(slots)
    for index in range(slots):
        timeline.note_sent(sent(index, is_ramp=index < slots - 1))
    events = []
    for index, first_s in enumerate(first_tokens_s):
        end_s = ends_s[index] if ends_s else None
        stop_s = until_s if end_s is None else end_s
        count = round((stop_s - first_s) / period_s) + 1
        for step in range(count):
            at_s = first_s + step * period_s
            is_last = end_s is not None and step == count - 1
            events.append(TokenEvent(index, at_s, 1, is_last, running or slots))
    for event in sorted(events, key=lambda event: event.at_s):
        timeline.record(event)
    return timeline
