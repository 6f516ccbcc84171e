"""One engine with its meters: how it is prepared, and how a point of it is measured."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from tokenwatt import closure, power
from tokenwatt.bench import decoding
from tokenwatt.bench.accuracy import Accuracy, Gate
from tokenwatt.bench.observer import Observer
from tokenwatt.bench.points import Point, longest_context
from tokenwatt.bench.resting import SETTLE_S, Resting, resting_power
from tokenwatt.bench.row_maker import Ending, RowMaker
from tokenwatt.bench.run import Run
from tokenwatt.bench.stopping import Stopping
from tokenwatt.bench.watching import IsEnough, watch
from tokenwatt.clock import RunClock
from tokenwatt.engines.protocol import Engine
from tokenwatt.environment import Ceilings, describe, measure_ceilings
from tokenwatt.errors import EngineError
from tokenwatt.power.external import NodeMeter
from tokenwatt.record import Measurement, Reason, Status
from tokenwatt.rows import MARGIN_S, Recording
from tokenwatt.spec import BenchSpec
from tokenwatt.steady_state import Timeline

PATIENCE = 4
"""Windows' lengths after which the first window starts, even if requests come faster than they are answered."""
WARM_UP_REQUESTS = 32
"""Of a load that does not say how many are in flight."""


@dataclass(slots=True)
class Subject:
    """One [[bench]] of a suite under way: rest, load, measure each point, close the engine, look back."""

    run: Run
    suite: str
    spec: BenchSpec
    engine: Engine
    meters: power.Meters
    clock: RunClock
    observer: Observer
    variant: Literal["A", "B"] | None = None
    node_meter: NodeMeter | None = None
    """Reads the whole machine meanwhile."""
    gate: Gate | None = None
    """Checks the engine's answers before it is measured."""
    failure: str | None = None
    """Why the engine could not be loaded, or may not be measured; every point then fails with it."""
    accuracy: Accuracy = field(default_factory=Accuracy)
    """What the check found."""
    _instruments: power.Instruments = field(default_factory=dict)
    _maker: RowMaker = field(init=False)
    _static: Resting | None = None
    """The engine loaded and nothing running."""
    _first_row: int = 0
    _warm: tuple[Any, ...] | None = None
    """What the engine was warmed up for."""

    def __post_init__(self) -> None:
        self._maker = RowMaker(
            self.run, self.suite, self.spec, self.engine, self.clock.began_at, self.meters.scope, self.variant,
            self.node_meter,
        )  # fmt: skip

    def rest(self) -> None:
        """Before anything is loaded: what its meters are like, idle power, and what this machine is and can do."""
        self._first_row = len(self.run.measurements)
        self._instruments = self.meters.learn(self.clock)
        self._maker.shared["gpu_idle_power_w"] = _watts(self._resting_power("idle power"))
        identity = self.engine.identity
        ceilings: Ceilings | None = None
        if identity.dtype is not None and identity.torch_version is not None:  # a server's device is its own, and full
            self.observer.begin("ceilings of this machine", 0.0)
            ceilings = measure_ceilings(identity.device, identity.dtype)
            self.observer.end(None)
        environment = describe(
            identity.device, identity.gpu_uuids, identity.torch_version, identity.triton_version, ceilings
        )
        self._maker.shared |= environment.model_dump()

    def refer(self) -> None:
        """Ask the reference of the gate, which is gone again before the engine is loaded."""
        if self.gate is None:
            return
        self.accuracy = self.gate.accuracy
        self.observer.begin("reference engine", 0.0)
        try:
            self.gate.refer()
        except EngineError as error:
            self.failure = str(error)
        finally:
            self.observer.end(None)

    def load(self, points: Sequence[Point]) -> None:
        """Load the engine for its largest point, check its answers, warm it up, then read its power at rest."""
        if self.failure is not None:
            return
        self.observer.begin(f"loading {self.engine.identity.model or self.engine.identity.name}", 0.0)
        try:
            self.engine.load(self._most_in_flight(points), self._longest_context(points))
            self._check()
            if self.failure is None:
                self._warm_up(points[0])
        except EngineError as error:
            self.failure = str(error)
        finally:
            self.observer.end(None)
        if self.failure is None:
            self._static = self._resting_power("static power", SETTLE_S)
            self._maker.shared["gpu_static_power_w"] = _watts(self._static)

    def measure(self, point: Point) -> list[Measurement]:
        """One point and, where they are asked for, what its energy went into, and its phases; returns its own rows."""
        rows = self._measure(point)
        if self.spec.closure and rows and rows[-1].status is Status.OK:
            self._close(point, rows[-1])
        good = [row for row in rows if row.status is Status.OK and row.context and row.output_tokens]
        if not self.spec.phases or len(good) < len(rows):
            return rows
        self._measure(replace(point, phase="prefill"))
        try:
            decode = self._decode_point(point, good)
        except EngineError as error:
            asked, recording = self.asked(replace(point, phase="decode")), self._recording(point)
            ending = (Status.FAILED, Reason.NO_STEADY_WINDOW, str(error))
            self.run.keep(self._maker.rows(asked, 0, recording, ending), recording)
        else:
            self._measure(decode)
        return rows

    def look_back(self) -> None:
        """After the engine was closed: idle power again, written into the rows that were made.

        A board that is lost by then leaves them as they are: good rows, without this column.
        """
        if not self.meters.scope or not self.spec.idle_s:
            return
        try:
            after_w = _watts(self._resting_power("idle power, after", SETTLE_S))
        except power.MeterError:
            return
        rows = self.run.measurements
        rows[self._first_row :] = [
            row.model_copy(update={"gpu_idle_power_after_w": after_w}) if row.variant == self.variant else row
            for row in rows[self._first_row :]
        ]
        self.run.save()

    def _measure(self, point: Point) -> list[Measurement]:
        """Windows of one point until they agree or the budget is spent, in one run; of decode alone, one in each."""
        stopping, asked, rows = Stopping(self.spec, point.window_s), self.asked(point), list[Measurement]()

        def is_enough(recording: Recording, start_s: float, end_s: float) -> bool:
            stopping.note(recording, start_s, end_s)
            return stopping.is_over or point.phase == "decode"

        self.observer.begin(point.label, stopping.most * point.window_s + MARGIN_S)
        try:
            while self.serve(point, asked, rows, is_enough) and not stopping.is_over:
                pass
        finally:
            self.observer.end(rows[-1] if rows else None)
        return rows

    def serve(self, point: Point, asked: dict[str, Any], rows: list[Measurement], is_enough: IsEnough) -> bool:
        """One run of the engine, whose windows join `rows` and are written, whatever happens; whether it went well."""
        recording = self._recording(point)
        ending: Ending | None = (Status.FAILED, Reason.ENGINE_ERROR, "unexpected error; see the traceback")
        try:
            self._record(point, recording, is_enough)
            ending = None
        except EngineError as error:
            is_wrong = self.accuracy.status == "disagrees"
            ending = (Status.FAILED, Reason.ACCURACY if is_wrong else Reason.ENGINE_ERROR, str(error))
        except KeyboardInterrupt:
            ending = (Status.INTERRUPTED, Reason.INTERRUPTED, None)
            raise
        finally:
            made = self._maker.rows(asked, len(rows), recording, ending)
            rows += made
            self.run.keep(made, recording)
        return ending is None and recording.windows > 0

    def _check(self) -> None:
        """Whether the engine's answers are the reference's; if not, there is nothing to measure."""
        if self.gate is None:
            return
        self.accuracy = self.gate.check(self.engine)
        if self.accuracy.status == "disagrees":
            identity = self.engine.identity
            self.failure = (
                f"{identity.name} does not compute the model as {self.accuracy.reference} does: {self.accuracy.figures}"
            )

    def _record(self, point: Point, recording: Recording, is_enough: IsEnough) -> None:
        """Warm up, then serve until there are windows enough, with the meters read meanwhile."""
        if self.failure is not None:
            raise EngineError(self.failure)
        self._warm_up(point)
        clock, load = self.clock, point.load(salt_of(self._maker.next_id()))
        load.on_sent = recording.timeline.note_sent
        sampler = power.Sampler(self.meters.meters, clock)
        recording.log = sampler.log
        try:
            with sampler, closing(self.engine.serve(load, clock)) as events:
                watch(events, recording, is_enough, self.observer.advance, clock)
                if recording.timeline.is_over:
                    time.sleep(recording.margin_s)  # for readings after its end
                    _note_job(recording, is_enough)
        except power.MeterError as error:
            recording.meter_failure = str(error)

    def _close(self, point: Point, row: Measurement) -> None:
        """Explain the energy of a window of the run that has just ended."""
        integrate = partial(power.integrate, instruments=self._instruments, cap_w=point.cap_w)
        self.observer.begin(f"closure, {point.label}", 0.0)

        def show(step: str) -> None:
            self.observer.end(None)
            self.observer.begin(f"closure, {point.label}: {step}", 0.0)

        try:
            found = closure.measure(
                self.engine, self.meters, self.clock, row,
                static_half_width_w=self._static.half_width_w if self._static else None,
                integrate=integrate, on_progress=show,
            )  # fmt: skip
        finally:
            self.observer.end(None)
        self.run.closure += found.terms
        self.run.remarks += [f"closure of {point.label}: {remark}" for remark in found.remarks]
        self.run.save()

    def _warm_up(self, point: Point) -> None:
        count = point.plan.concurrency or min(self._most_in_flight([point]), WARM_UP_REQUESTS)
        asked = (point.workload.name, point.phase, point.decode, count)
        if self._warm != asked:
            self.engine.warm_up(point.warm_up_requests(count), count, self.clock)
            self._warm = asked

    def _decode_point(self, point: Point, rows: Sequence[Measurement]) -> Point:
        """Decode alone at the mean context of a mixed point's rows, its pace found in a short run."""
        longest = self._longest_context([point])
        context = sum(row.context or 0.0 for row in rows) / len(rows)
        tpot_s = sum((row.running or 0.0) * (row.window_s or 0.0) for row in rows) / sum(
            row.output_tokens or 0 for row in rows
        )
        probe = decoding.probe(point, context, tpot_s, longest)
        recording = self._recording(probe)
        self.observer.begin(f"pace of decode, {point.label}", probe.window_s + MARGIN_S)
        try:
            self._record(probe, recording, lambda *_: True)
        finally:
            self.observer.end(None)
        return decoding.plan(point, context, decoding.pace_of(recording), longest)

    def _recording(self, point: Point) -> Recording:
        """An empty one, to be filled by a run of a point."""
        timeline = Timeline(
            point.in_flight, point.phase, point.plan.kind, point.plan.ramp_s, PATIENCE * point.window_s,
            point.conversations,
        )  # fmt: skip
        margin_s = MARGIN_S if self.meters.meters else 0.0
        return Recording(timeline, point.window_s, self._instruments, point.cap_w, margin_s)

    def _most_in_flight(self, points: Sequence[Point]) -> int:
        """Requests that the engine must be able to run together, as far as the loads say."""
        return max(point.plan.concurrency or point.most_at_once(self.spec.max_in_flight) for point in points)

    def _longest_context(self, points: Sequence[Point]) -> int:
        return longest_context(points, self.spec, self.engine.identity.longest_context)

    def _resting_power(self, label: str, settle_s: float = 0.0) -> Resting | None:
        return resting_power(
            self.meters, self._instruments, self.clock, self.spec.idle_s, self.observer, label, settle_s
        )

    def asked(self, point: Point) -> dict[str, Any]:
        """Columns of a point that are known before it is measured."""
        return self._maker.asked(point, self.accuracy)


def _note_job(recording: Recording, is_enough: IsEnough) -> None:
    """The one window of everything that was sent at once."""
    timeline = recording.timeline
    if timeline.load == "offline" and timeline.start_s is not None and timeline.token_times:
        recording.windows = 1
        is_enough(recording, timeline.start_s, timeline.token_times[-1])


def salt_of(measurement_id: str) -> int:
    """Salt of the run whose first window has this name."""
    return int.from_bytes(hashlib.sha256(measurement_id.encode()).digest()[:4])


def _watts(resting: Resting | None) -> float | None:
    """The column of a stretch of rest."""
    return None if resting is None else resting.power_w
