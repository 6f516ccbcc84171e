"""A suite, bench after bench, point after point, and where asked at one power cap after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tokenwatt import power
from tokenwatt.bench.accuracy import Gate, gate_of
from tokenwatt.bench.max_rate import check_searchable, find_max_rate
from tokenwatt.bench.observer import Observer
from tokenwatt.bench.points import Point, longest_context, points_of
from tokenwatt.bench.run import Run
from tokenwatt.bench.subject import Subject
from tokenwatt.clock import RunClock
from tokenwatt.engines import open_engine
from tokenwatt.engines.protocol import Engine
from tokenwatt.power.external import NodeMeter, open_node_meter
from tokenwatt.spec import BenchSpec, SuiteSpec


class CapSetter(AbstractContextManager["CapSetter"], Protocol):
    """Sets the power limit of an engine's GPUs and gives them back the one they had when it is left."""

    def check(self, watts: float) -> None:
        """Refuse a limit that a GPU cannot have; sets nothing.

        Raises:
            UserError: outside a GPU's range.
        """
        ...

    def set(self, watts: float) -> None:
        """Cap each GPU at so many watts."""
        ...


OpenCaps = Callable[[tuple[str, ...] | None], CapSetter]
"""Makes a `CapSetter` for GPUs by UUID (None: every board); raises UserError where that is not allowed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One [[bench]] with its engine and its points, checked against each other."""

    spec: BenchSpec
    engine: Engine
    points: list[Point]
    gate: Gate | None = None
    """The check of its answers, if it asks for one."""


def plans_of(suite: SuiteSpec, caps: tuple[float, ...] = ()) -> list[Plan]:
    """Open every engine and check every workload against it; nothing is loaded yet.

    Raises:
        UserError: something in the suite cannot be run as written.
    """
    plans = [Plan(spec, open_engine(spec), points_of(spec, caps)) for spec in suite.bench]
    return [_checked(plan) for plan in plans]


def _checked(plan: Plan) -> Plan:
    """A plan whose engine can serve its points, with the check of its answers."""
    for point in plan.points:
        point.load()  # a replay needs a timetable, and files are read
    longest = longest_context(plan.points, plan.spec, plan.engine.identity.longest_context)
    vocabulary = max(point.workload.vocabulary for point in plan.points)
    plan.engine.check(longest, vocabulary)
    return replace(plan, gate=gate_of(plan.spec, plan.engine, longest, vocabulary))


def new_run(clock: RunClock, results: Path) -> Run:
    """A run with its folder, written to at once, so that an unwritable disk is known before anything is measured."""
    run_id = clock.new_run_id()
    run = Run(run_id, results / run_id)
    run.save()
    return run


def run_suite(
    suite: SuiteSpec,
    results: Path,
    observer: Observer,
    caps: tuple[float, ...] = (),
    open_caps: OpenCaps | None = None,
    finds_max_rate: bool = False,
) -> Run:
    """Measure every point of `suite`, writing to `<results>/<run_id>/` after each.

    Args:
        suite: what to measure.
        results: folder of runs.
        observer: hears how far it is.
        caps: power limits per GPU, W; each point is measured at each of them, highest first, before the next point, so
            that what is compared lies close in time. The first step is the smallest change from an uncapped board.
        open_caps: how to set them.
        finds_max_rate: search, from each bench's one rate, for the largest that keeps its service level.

    Raises:
        UserError: something in the suite cannot be run as written; nothing has been measured then.
        KeyboardInterrupt: passed on, after the point under way was written as `interrupted`.
    """
    if finds_max_rate:
        check_searchable(suite)
    plans = plans_of(suite, caps)
    clock = RunClock()
    run = new_run(clock, results)
    for plan in plans:
        gpu_uuids = plan.engine.identity.gpu_uuids
        with power.open_meters(gpu_uuids) as meters, node_meter_of(suite, clock) as node_meter:
            subject = Subject(
                run, suite.name, plan.spec, plan.engine, meters, clock, observer, node_meter=node_meter, gate=plan.gate
            )
            with closing(plan.engine), _opened(open_caps, gpu_uuids, caps) as set_cap:
                subject.rest()
                subject.refer()
                subject.load(plan.points)
                for point in plan.points:
                    if point.cap_w is not None:
                        set_cap(point.cap_w)
                    if finds_max_rate:
                        find_max_rate(subject, point)
                    else:
                        subject.measure(point)
            subject.look_back()
    return run


def node_meter_of(suite: SuiteSpec, clock: RunClock) -> AbstractContextManager[NodeMeter | None]:
    """The meter of the whole machine that a suite asks for.

    Raises:
        UserError: there is no such meter, or it does not answer.
    """
    return nullcontext() if suite.node_meter is None else open_node_meter(suite.node_meter, clock)


@contextmanager
def _opened(
    open_caps: OpenCaps | None, gpu_uuids: tuple[str, ...] | None, caps: tuple[float, ...]
) -> Iterator[Callable[[float], None]]:
    """What sets a cap, when all of them are allowed; without caps nothing is opened."""
    if open_caps is None:
        if caps:
            raise ValueError("power caps need something that sets them: open_caps is None")
        yield lambda watts: None
        return
    with open_caps(gpu_uuids) as setter:
        for watts in caps:
            setter.check(watts)
        yield setter.set
