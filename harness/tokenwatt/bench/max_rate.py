"""The largest request rate of a workload that keeps the service level, each try of it a point with rows of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tokenwatt.analysis.max_rate import MaxRate, RateSearch, Try, as_result
from tokenwatt.bench.points import Point
from tokenwatt.bench.subject import Subject
from tokenwatt.errors import UserError
from tokenwatt.record import Measurement, Reason, Status
from tokenwatt.spec import BenchSpec, ServiceLevel, SuiteSpec

MOST_FAILED_TRIES = 3
"""Tries in a row that may fail: too high a rate may make a server refuse everything."""


def check_searchable(suite: SuiteSpec) -> None:
    """Whether each bench of a suite says from where to search, and for what.

    Raises:
        UserError: one does not.
    """
    for place, bench in enumerate(suite.bench):
        if bench.slo is None or len(bench.rate) != 1:
            raise UserError(
                "--find-max-rate needs a [bench.slo] and one rate to begin with, such as rate = [1.0]; "
                f"bench {place} of suite {suite.name!r} has {_found(bench)}"
            )


def find_max_rate(subject: Subject, point: Point) -> MaxRate:
    """Measure rate after rate, from that of `point`, and file the outcome among the results of the run."""
    slo = subject.spec.slo
    assert slo is not None
    search, tried, rows = RateSearch(point.plan.level), dict[float, list[Measurement]](), list[Measurement]()
    while (rate := search.next_rate()) is not None:
        rows = subject.measure(replace(point, plan=replace(point.plan, level=rate)))
        search.tries.append(Try.of(rate, rows, slo.share))
        tried[rate] = rows
        if subject.failure is not None or _is_ours(rows) or _is_dead(list(tried.values())):
            break
    found = search.outcome()
    if found.rate_per_s is not None:
        subject.run.found.append(as_result(found, tried[found.rate_per_s]))
        subject.run.save()
    bound = "; the search ended where our own client was the limit" if _is_ours(rows) else ""
    subject.run.remarks.append(f"{point.workload.name}: {in_words(found, slo)}{bound}")
    return found


def _is_ours(rows: Sequence[Measurement]) -> bool:
    """Whether a rate was our client's, so that higher ones would tell nothing of the engine."""
    return any(Reason.CLIENT_BOUND in row.reasons for row in rows)


def _is_dead(tries: Sequence[Sequence[Measurement]]) -> bool:
    """Whether so many tries in a row have failed that the engine will not tell more."""
    last = tries[-MOST_FAILED_TRIES:]
    return len(last) == MOST_FAILED_TRIES and all(rows[-1].status is not Status.OK for rows in last)


def in_words(found: MaxRate, slo: ServiceLevel) -> str:
    """What a search has found, for people."""
    level = f"{100 * slo.share:g} % of requests within {slo.in_words()}"
    if found.rate_per_s is None:
        return f"no rate keeps {level} ({found.tries} tried)"
    low = "none" if found.low_per_s is None else f"{found.low_per_s:.4g}"
    high = "none" if found.high_per_s is None else f"{found.high_per_s:.4g}"
    return (
        f"largest rate with {level}: {found.rate_per_s:.4g} req/s "
        f"(surely keeps it: {low}; surely breaks it: {high}; {found.tries} tried)"
    )


def _found(bench: BenchSpec) -> str:
    rates = f"rate = {list(bench.rate)}" if bench.rate else "no rate"
    return f"{rates} and {'no slo' if bench.slo is None else 'a slo'}"
