"""One invocation: every bench of a suite, measured point by point, each written before the next begins."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from tokenwatt import power, store
from tokenwatt.clock import RunClock
from tokenwatt.engines import open_engine
from tokenwatt.engines.protocol import Engine, TokenEvent
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
from tokenwatt.rows import row_of, row_without_numbers
from tokenwatt.spec import BenchSpec, SuiteSpec
from tokenwatt.steady_state import Timeline
from tokenwatt.workloads import Workload, load_workload

TAIL_S = 1.2
"""How long a run goes on after its window: the counter's lag is averaged over a second on both sides of each edge."""


DISPLAY_PERIOD_S = 0.2
"""How often the observer hears of progress: once per token would cost a large batch a measurable share of its step."""


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
    run_id = clock.new_run_id()
    run = Run(run_id, results / run_id)
    run.save()
    for spec, engine, points in plans:
        with closing(engine), power.open_meters(engine.identity.gpu_uuids) as meters:
            _Bench(run, suite.name, spec, engine, meters, clock, observer).measure(points)
    return run


def _points(spec: BenchSpec) -> list[Point]:
    workloads = [load_workload(name) for name in spec.workloads]
    return [Point(workload, concurrency) for workload in workloads for concurrency in spec.concurrency]


def _longest_context(points: Iterable[Point]) -> int:
    return max(point.workload.longest() for point in points)


@dataclass(slots=True)
class _Bench:
    """One [[bench]] of a suite under way: what all of its points share."""

    run: Run
    suite: str
    spec: BenchSpec
    engine: Engine
    meters: power.Meters
    clock: RunClock
    observer: Observer

    def measure(self, points: Sequence[Point]) -> None:
        """Idle power, ceilings, load, then the points; an engine that cannot load fails each of them."""
        idle_power_w = self._idle_power_w()
        environment = self._environment()
        failure = self._load(points)
        identity = self.engine.identity
        for point in points:
            asked = {
                **environment.model_dump(),
                "run_id": self.run.run_id,
                "measurement_id": f"{self.run.run_id}/{len(self.run.measurements)}",
                "point_id": f"{self.run.run_id}/p{len(self.run.measurements)}",
                "measured_at": datetime.now(UTC),
                "run_began_at": self.clock.began_at,
                "suite": self.suite,
                "workload": point.workload.name,
                "workload_sha256": point.workload.sha256(),
                "engine": identity.name,
                "engine_version": identity.version,
                "model": identity.model,
                "weights_source": identity.weights_source,
                "dtype": identity.dtype,
                "quantization": identity.quantization,
                "kv_cache_dtype": identity.kv_cache_dtype,
                "tp": identity.tp,
                "seed": self.spec.seed,
                "concurrency": point.concurrency,
                "power_scope": self.meters.scope,
                "gpu_idle_power_w": idle_power_w,
            }
            self._measure_point(point, asked, failure)

    def _measure_point(self, point: Point, asked: dict[str, Any], failure: str | None) -> None:
        """One point, which ends as a row whatever happens."""
        timeline, samples = Timeline(point.concurrency), list[PowerSample]()
        self.observer.begin(point.label, self.spec.window_s + TAIL_S)
        row = row_without_numbers(asked, Status.FAILED, Reason.ENGINE_ERROR, "unexpected error; see the traceback")
        try:
            if failure is not None:
                raise EngineError(failure)
            meter_failure = self._serve(point, timeline, samples)
            row = row_of(asked, timeline, samples, meter_failure, self.engine.report, self.spec)
        except EngineError as error:
            row = row_without_numbers(asked, Status.FAILED, Reason.ENGINE_ERROR, str(error))
        except KeyboardInterrupt:
            row = row_without_numbers(asked, Status.INTERRUPTED, Reason.INTERRUPTED, None)
            raise
        finally:
            _keep(self.run, row, timeline, samples)
            self.observer.end(row)

    def _idle_power_w(self) -> float | None:
        """Mean board power before the engine is loaded; None without a power meter."""
        idle_s = self.spec.idle_s
        if not self.meters.scope or not idle_s:
            return None
        self.observer.begin("idle power", idle_s)
        with power.Sampler(self.meters.meters, self.clock) as sampler:
            begin_s = self.clock()
            while (elapsed_s := self.clock() - begin_s) < idle_s:
                time.sleep(min(power.SAMPLING_PERIOD_S, idle_s - elapsed_s))
                self.observer.advance(elapsed_s)
        self.observer.end(None)
        return power.mean_power_w(sampler.samples, begin_s, begin_s + idle_s)

    def _environment(self) -> Environment:
        identity = self.engine.identity
        ceilings: Ceilings | None = None
        if identity.dtype is not None:
            self.observer.begin("ceilings of this machine", 0.0)
            ceilings = measure_ceilings(identity.device, identity.dtype)
            self.observer.end(None)
        return describe(identity.device, identity.gpu_uuids, identity.torch_version, identity.triton_version, ceilings)

    def _load(self, points: Sequence[Point]) -> str | None:
        """Load the engine for its largest point; the error's text if it cannot be."""
        self.observer.begin(f"loading {self.engine.identity.model or self.engine.identity.name}", 0.0)
        try:
            self.engine.load(max(point.concurrency for point in points), _longest_context(points))
        except EngineError as error:
            return str(error)
        finally:
            self.observer.end(None)
        return None

    def _serve(self, point: Point, timeline: Timeline, samples: list[PowerSample]) -> str | None:
        """Warm up, then serve until the window is full, filling `timeline` and `samples`; a meter's failure as text."""
        requests, concurrency, clock = point.workload.requests, point.concurrency, self.clock
        self.engine.warm_up(list(itertools.islice(requests(), concurrency)), concurrency, clock)
        sampler = power.Sampler(self.meters.meters, clock)
        try:
            with (
                sampler,
                closing(self.engine.serve(timeline.send(requests(), clock), concurrency, clock)) as events,
            ):
                self._watch(events, timeline)
        except power.MeterError as error:
            return str(error)
        finally:
            samples.extend(sampler.samples)
        return None

    def _watch(self, events: Iterator[TokenEvent], timeline: Timeline) -> None:
        """Record events until the window and its tail have passed."""
        shown_s = 0.0
        for event in events:
            timeline.record(event)
            if timeline.start_s is None:
                if event.refusal is not None and timeline.refused > timeline.concurrency:
                    raise EngineError(f"request after request is refused: {event.refusal}")
                continue
            elapsed_s = event.at_s - timeline.start_s
            if elapsed_s > self.spec.window_s + TAIL_S:
                return
            if elapsed_s - shown_s > DISPLAY_PERIOD_S:
                self.observer.advance(elapsed_s)
                shown_s = elapsed_s


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
