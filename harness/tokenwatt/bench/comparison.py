"""Two benches of a suite in turns, A B B A A B B A, so that what drifts meanwhile falls on both alike."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Literal

from tokenwatt import power, store
from tokenwatt.analysis.results import results_of
from tokenwatt.bench.observer import Observer
from tokenwatt.bench.points import Point
from tokenwatt.bench.run import Run
from tokenwatt.bench.stopping import Stopping
from tokenwatt.bench.subject import Subject
from tokenwatt.bench.suite import Plan, new_run, node_meter_of, plans_of
from tokenwatt.clock import RunClock
from tokenwatt.errors import UserError
from tokenwatt.record import Measurement
from tokenwatt.rows import MARGIN_S
from tokenwatt.spec import LOADS, SuiteSpec

SAME = (
    "workloads",
    *LOADS,
    "burstiness",
    "ramp_s",
    "slo",
    "window_s",
    "min_window_s",
    "idle_s",
    "interval_width",
    "max_windows",
    "budget_s",
    "phases",
    "closure",
)
"""What both sides must have in common, so that the ratio is that of the rest."""
SIDES: tuple[Literal["A", "B"], ...] = ("A", "B")


def compare_suite(suite: SuiteSpec, results: Path, observer: Observer) -> Run:
    """Measure the two benches of `suite` in turns until the ratio of each point is known, or its budget is spent.

    Each window is a run of its own, with its own ramp; both engines stay loaded.

    Raises:
        UserError: the suite cannot be compared; nothing has been measured then.
        KeyboardInterrupt: passed on, after the window under way was written as `interrupted`.
    """
    check_comparable(suite)
    plans = plans_of(suite)
    clock = RunClock()
    run = new_run(clock, results)
    with ExitStack() as meters:
        node_meter = meters.enter_context(node_meter_of(suite, clock))
        sides = [
            Subject(
                run, suite.name, plan.spec, plan.engine,
                meters.enter_context(power.open_meters(plan.engine.identity.gpu_uuids)), clock, observer, side,
                node_meter, plan.gate,
            )
            for side, plan in zip(SIDES, plans, strict=True)
        ]  # fmt: skip
        with closing(plans[0].engine), closing(plans[1].engine):
            _load(sides, plans)
            for point in plans[0].points:
                _compare(run, sides, point)
        for subject in sides:
            subject.look_back()
    return run


def check_comparable(suite: SuiteSpec) -> None:
    """Whether a suite has two sides that are asked the same.

    Raises:
        UserError: it has not.
    """
    if len(suite.bench) != 2:
        raise UserError(f"--compare needs a suite with exactly two [[bench]], {suite.name!r} has {len(suite.bench)}")
    first, second = suite.bench
    for key in SAME:
        if getattr(first, key) != getattr(second, key):
            raise UserError(
                f"--compare needs the same {key} on both sides, "
                f"got {getattr(first, key)!r} and {getattr(second, key)!r} in suite {suite.name!r}"
            )
    for key in ("phases", "closure"):
        if getattr(first, key):
            raise UserError(f"--compare measures no {key}; take {key} = true out of suite {suite.name!r}")


def _load(sides: list[Subject], plans: list[Plan]) -> None:
    """Idle power of both, and what the references of both say, before either is loaded."""
    for subject in sides:
        subject.rest()
    for subject in sides:
        subject.refer()
    for subject, plan in zip(sides, plans, strict=True):
        subject.load(plan.points)
        if subject.failure is not None and subject.accuracy.status != "disagrees":
            subject.failure += (
                f"; a comparison keeps both engines loaded, and this is side {subject.variant}: take smaller models, "
                "a lower concurrency, or for engine native fewer num_pages"
            )


def _compare(run: Run, sides: list[Subject], point: Point) -> None:
    """Pairs of windows of one point, the order turned round after each; ends with the first that goes wrong."""
    broken = [subject for subject in sides if subject.failure is not None]
    asked = {subject.variant: subject.asked(point) for subject in broken or sides}
    rows: dict[str | None, list[Measurement]] = {variant: [] for variant in asked}
    most = Stopping(sides[0].spec, point.window_s).most
    for pair in range(most):
        for subject in broken or (sides if pair % 2 == 0 else sides[::-1]):
            if not _measure(subject, point, asked[subject.variant], rows[subject.variant]):
                return
        if _is_known([row for side in rows.values() for row in side], run.interval_widths):
            return


def _measure(subject: Subject, point: Point, asked: dict[str, Any], rows: list[Measurement]) -> bool:
    """One window of one side, which joins `rows`; whether it went well."""
    subject.observer.begin(f"{point.label} {subject.variant}", point.window_s + MARGIN_S)
    try:
        return subject.serve(point, asked, rows, lambda *_: True)
    finally:
        subject.observer.end(rows[-1] if rows else None)


def _is_known(rows: list[Measurement], widths: dict[str, float]) -> bool:
    """Whether the interval of the ratio that decides is as narrow as was asked for."""
    table = store.to_table(rows, Measurement).to_pandas()
    return any(result.has_converged for result in results_of(table, widths[rows[0].point_id]))
