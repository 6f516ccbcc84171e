"""One invocation: every bench of a suite, measured point by point, each written before the next begins."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tokenwatt import power, steady_state, store
from tokenwatt.engines import open_engine
from tokenwatt.engines.protocol import Engine
from tokenwatt.environment import Ceilings, describe, measure_ceilings
from tokenwatt.errors import EngineError
from tokenwatt.record import (
    Environment,
    Measurement,
    PowerRecord,
    PowerSample,
    Reason,
    RequestRecord,
    Status,
)
from tokenwatt.spec import BenchSpec, SuiteSpec
from tokenwatt.steady_state import Timeline, Window
from tokenwatt.workloads import Workload, load_workload

TAIL_S = 1.2
"""How long a run goes on after its window: the counter's lag is averaged over a second on both sides of each edge."""


class Observer(Protocol):
    """Is told how far a run is; the command line draws it."""

    def begin(self, label: str, expected_s: float) -> None:
        """A point or a preparation begins and will take about so many seconds (0 if nobody knows)."""
        ...

    def advance(self, elapsed_s: float) -> None:
        """So many seconds of it have passed."""
        ...

    def end(self, measurement: Measurement | None) -> None:
        """It is over; a point hands over its row."""
        ...


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement to take."""

    workload: Workload
    concurrency: int

    @property
    def label(self) -> str:
        """Name for people."""
        return f"{self.workload.name} x{self.concurrency}"


@dataclass(slots=True)
class Run:
    """The rows of one invocation and the folder that they are kept in."""

    run_id: str
    folder: Path
    measurements: list[Measurement] = field(default_factory=list)
    requests: list[RequestRecord] = field(default_factory=list)
    power: list[PowerRecord] = field(default_factory=list)

    def save(self) -> None:
        """Write everything so far; measurements last, so that a row is there only with its requests and readings."""
        store.write(self.power, PowerRecord, self.folder)
        store.write(self.requests, RequestRecord, self.folder)
        store.write(self.measurements, Measurement, self.folder)


@dataclass(slots=True)
class RunClock:
    """Seconds since the run began, monotonic, with one UTC anchor."""

    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _origin: float = field(default_factory=time.perf_counter)

    def __call__(self) -> float:
        """Now."""
        return time.perf_counter() - self._origin


def run_suite(suite: SuiteSpec, results: Path, observer: Observer) -> Run:
    """Measure every point of `suite`, writing to `<results>/<run_id>/` after each.

    Raises:
        UserError: something in the suite cannot be run as written; nothing has been measured then.
        KeyboardInterrupt: passed on, after the point under way was written as `interrupted`.
    """
    plans = [(spec, open_engine(spec), _points(spec)) for spec in suite.bench]
    for _, engine, points in plans:
        engine.check(_longest_context(points), max(point.workload.vocabulary for point in points))
    clock = RunClock()
    run_id = f"{clock.began_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    run = Run(run_id, results / run_id)
    run.save()
    for spec, engine, points in plans:
        with closing(engine):
            _run_bench(run, suite.name, spec, engine, points, clock, observer)
    return run


def _points(spec: BenchSpec) -> list[Point]:
    workloads = [load_workload(name) for name in spec.workloads]
    return [Point(workload, concurrency) for workload in workloads for concurrency in spec.concurrency]


def _longest_context(points: Iterable[Point]) -> int:
    return max(point.workload.longest() for point in points)


def _run_bench(
    run: Run,
    suite: str,
    spec: BenchSpec,
    engine: Engine,
    points: Sequence[Point],
    clock: RunClock,
    observer: Observer,
) -> None:
    """Idle power, ceilings, load, then the points; an engine that cannot load fails each of them."""
    with power.open_meters(engine.identity.gpu_uuids) as meters:
        idle_power_w = _idle_power_w(meters, spec.idle_s, clock, observer)
        environment = _environment(engine, observer)
        failure = _load(engine, points, observer)
        for point in points:
            identity = engine.identity
            asked = {
                **environment.model_dump(),
                "run_id": run.run_id,
                "measurement_id": f"{run.run_id}/{len(run.measurements)}",
                "measured_at": datetime.now(UTC),
                "suite": suite,
                "workload": point.workload.name,
                "workload_sha256": point.workload.sha256(),
                "engine": identity.name,
                "engine_version": identity.version,
                "model": identity.model,
                "weights_source": identity.weights_source,
                "dtype": identity.dtype,
                "seed": spec.seed,
                "concurrency": point.concurrency,
                "power_scope": meters.scope,
                "gpu_idle_power_w": idle_power_w,
            }
            timeline, samples = Timeline(point.concurrency), list[PowerSample]()
            observer.begin(point.label, spec.window_s + TAIL_S)
            row = _row_without_numbers(asked, Status.INTERRUPTED, Reason.INTERRUPTED, None)
            try:
                if failure is not None:
                    raise EngineError(failure)
                _serve(engine, spec, point, timeline, meters, samples, clock, observer)
                row = _row(asked, timeline, samples, spec)
            except EngineError as error:
                row = _row_without_numbers(asked, Status.FAILED, Reason.ENGINE_ERROR, str(error))
            except power.MeterError as error:
                row = _row_without_numbers(asked, Status.FAILED, Reason.METER_ERROR, str(error))
            finally:
                _keep(run, row, timeline, samples)
                observer.end(row)


def _idle_power_w(meters: power.Meters, idle_s: float, clock: RunClock, observer: Observer) -> float | None:
    """Mean board power over `idle_s` seconds before the engine is loaded; None without a power meter."""
    if not meters.scope or not idle_s:
        return None
    observer.begin("idle power", idle_s)
    with power.Sampler(meters.meters, clock) as sampler:
        begin_s = clock()
        while (elapsed_s := clock() - begin_s) < idle_s:
            time.sleep(min(power.SAMPLING_PERIOD_S, idle_s - elapsed_s))
            observer.advance(elapsed_s)
    observer.end(None)
    return power.mean_power_w(sampler.samples, begin_s, begin_s + idle_s)


def _environment(engine: Engine, observer: Observer) -> Environment:
    identity = engine.identity
    ceilings: Ceilings | None = None
    if identity.dtype is not None:
        observer.begin("ceilings of this machine", 0.0)
        ceilings = measure_ceilings(identity.device, identity.dtype)
        observer.end(None)
    wanted = identity.gpu_uuids
    boards = [board for board in power.boards() if wanted is None or board.uuid in wanted]
    return describe(
        identity,
        gpu_name=boards[0].name if boards else None,
        gpu_uuids=tuple(board.uuid for board in boards) or wanted or (),
        gpu_driver_version=boards[0].driver_version if boards else None,
        ceilings=ceilings,
    )


def _load(engine: Engine, points: Sequence[Point], observer: Observer) -> str | None:
    """Load the engine for its largest point; the error's text if it cannot be."""
    observer.begin(f"loading {engine.identity.model or engine.identity.name}", 0.0)
    try:
        engine.load(max(point.concurrency for point in points), _longest_context(points))
    except EngineError as error:
        return str(error)
    finally:
        observer.end(None)
    return None


def _serve(
    engine: Engine,
    spec: BenchSpec,
    point: Point,
    timeline: Timeline,
    meters: power.Meters,
    samples: list[PowerSample],
    clock: RunClock,
    observer: Observer,
) -> None:
    """Warm up, then serve until the window is full, filling `timeline` and `samples`."""
    requests = point.workload.requests
    engine.warm_up(list(itertools.islice(requests(), point.concurrency)), point.concurrency, clock)
    sampler = power.Sampler(meters.meters, clock)
    try:
        with (
            sampler,
            closing(engine.serve(timeline.send(requests(), clock), point.concurrency, clock)) as events,
        ):
            for event in events:
                timeline.record(event)
                if timeline.start_s is not None:
                    observer.advance(event.at_s - timeline.start_s)
                    if event.at_s > timeline.start_s + spec.window_s + TAIL_S:
                        break
    finally:
        samples.extend(sampler.samples)


def _row_without_numbers(asked: dict[str, Any], status: Status, reason: Reason, detail: str | None) -> Measurement:
    return Measurement.model_validate({**asked, "status": status, "reasons": (reason,), "detail": detail})


def _row(asked: dict[str, Any], timeline: Timeline, samples: list[PowerSample], spec: BenchSpec) -> Measurement:
    """The measurement of one finished run."""
    window = steady_state.find(timeline, spec.window_s, spec.min_window_s)
    if window is None:
        return _row_without_numbers(asked, Status.FAILED, Reason.NO_STEADY_WINDOW, None)
    energy = power.integrate(samples, window.start_s, window.end_s)
    numbers = {
        "status": Status.OK,
        "reasons": window.reasons,
        "window_start_s": window.start_s,
        "window_s": window.length_s,
        "is_stable": not window.reasons,
        "running": window.running,
        **_tokens(timeline, window),
        **_latencies(timeline, window),
        "energy_status": energy.status,
        "energy_reasons": energy.reasons,
        "gpu_energy_j": energy.gpu_energy_j,
        "gpu_energy_counter_j": energy.counter_j,
        "gpu_energy_sampled_j": energy.sampled_j,
        "gpu_energy_relative_difference": energy.relative_difference,
        "gpu_power_limit_w": energy.power_limit_w,
        "gpu_sm_clock_hz": energy.sm_clock_hz,
        "gpu_temperature_start_c": energy.temperature_start_c,
        "gpu_temperature_end_c": energy.temperature_end_c,
        "throttle_reasons": energy.throttle_reasons,
        "cpu_energy_j": energy.cpu_energy_j,
    }
    return Measurement.model_validate({**asked, **numbers})


def _tokens(timeline: Timeline, window: Window) -> dict[str, Any]:
    """Token and request counts of the window."""
    traces = timeline.traces.values()
    answered = [trace for trace in traces if window.holds(trace.first_token_s)]
    return {
        "isl": float(np.mean([trace.isl for trace in answered])) if answered else None,
        "osl": float(np.mean([trace.osl for trace in answered])) if answered else None,
        "requests_completed": sum(trace.is_complete and window.holds(trace.last_token_s) for trace in traces),
        "input_tokens": sum(trace.isl for trace in answered),
        "output_tokens": sum(
            count for at_s, count in zip(timeline.token_times, timeline.token_counts, strict=True) if window.holds(at_s)
        ),
    }


def _latencies(timeline: Timeline, window: Window) -> dict[str, float | None]:
    """Latency summaries over the requests of the window; those of the ramp are left out."""
    ttft, tpot, e2el = [], [], []
    for trace in timeline.traces.values():
        if trace.is_ramp or trace.first_token_s is None or trace.last_token_s is None:
            continue
        if window.holds(trace.first_token_s):
            ttft.append(trace.first_token_s - trace.sent_s)
        if trace.is_complete and window.holds(trace.last_token_s):
            e2el.append(trace.last_token_s - trace.sent_s)
            if trace.output_tokens > 1:
                tpot.append((trace.last_token_s - trace.first_token_s) / (trace.output_tokens - 1))
    return {
        "ttft_median_s": _quantile(ttft, 0.5),
        "ttft_p99_s": _quantile(ttft, 0.99),
        "tpot_median_s": _quantile(tpot, 0.5),
        "tpot_p99_s": _quantile(tpot, 0.99),
        "e2el_median_s": _quantile(e2el, 0.5),
    }


def _quantile(values: list[float], share: float) -> float | None:
    return float(np.quantile(values, share)) if values else None


def _keep(run: Run, row: Measurement, timeline: Timeline, samples: list[PowerSample]) -> None:
    """File a row with its requests and readings, and write the run."""
    place = {"run_id": row.run_id, "measurement_id": row.measurement_id}
    run.measurements.append(row)
    run.requests += [
        RequestRecord(
            **place,
            request_index=trace.index,
            isl=trace.isl,
            osl=trace.osl,
            output_tokens=trace.output_tokens,
            sent_s=trace.sent_s,
            first_token_s=trace.first_token_s,
            last_token_s=trace.last_token_s,
            is_ramp=trace.is_ramp,
            is_complete=trace.is_complete,
        )
        for trace in timeline.traces.values()
    ]
    run.power += [PowerRecord(**place, **sample.model_dump()) for sample in samples]
    run.save()
