"""The kernels of a study problem by problem: our time, its limit, and every baseline's beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tokenwatt.analysis.points import groups
from tokenwatt.publish.newest import PROBLEM, newest
from tokenwatt.record import OUR_KERNEL
from tokenwatt.report.tables import maybe


@dataclass(frozen=True, slots=True)
class Contest:
    """All contenders on one problem in one run. Rows are those of `kernels`, with their metrics."""

    family: str
    problem: str
    dtype: str
    ours: Mapping[Any, Any]
    """Row of our kernel."""
    baselines: Mapping[str, Mapping[Any, Any]]
    """Name -> row of everyone else."""

    @property
    def median_s(self) -> float | None:
        """Our time; None where it was not measured."""
        return maybe(self.ours["median_s"])

    @property
    def fraction_of_limit(self) -> float | None:
        """Least time by the ceilings in the row over ours."""
        return maybe(self.ours["fraction_of_limit"])

    @property
    def limit_s(self) -> float | None:
        """Least time of a call by the ceilings in the row: max(flop / rate, bytes / bandwidth)."""
        if any(maybe(self.ours[name]) is None for name in ("ceiling_flop_per_s", "ceiling_memory_bytes_per_s")):
            return None
        return max(
            float(self.ours["flop"]) / float(self.ours["ceiling_flop_per_s"]),
            float(self.ours["bytes"]) / float(self.ours["ceiling_memory_bytes_per_s"]),
        )

    @property
    def best(self) -> Mapping[Any, Any] | None:
        """Row of the fastest baseline; None where none was measured."""
        measured = [row for row in self.baselines.values() if maybe(row["median_s"]) is not None]
        return min(measured, key=lambda row: row["median_s"], default=None)

    @property
    def best_over_ours(self) -> float | None:
        """Time of the fastest baseline over ours: above 1 ours is faster."""
        return None if self.best is None else maybe(self.best["time_over_ours"])

    @property
    def best_joules_over_ours(self) -> float | None:
        """Energy of a call of the fastest baseline over that of ours."""
        return None if self.best is None else self.joules_over_ours(self.best)

    def joules_over_ours(self, row: Mapping[Any, Any]) -> float | None:
        """Energy of a call of a baseline over that of ours; None where either has none."""
        theirs, own = maybe(row["joules_per_call"]), maybe(self.ours["joules_per_call"])
        return None if theirs is None or not own else theirs / own


def newest_contests(kernels: pd.DataFrame) -> list[Contest]:
    """Each problem as its newest run has it, in the order of the rows."""
    return list(_contests(newest(kernels, PROBLEM)))


def _contests(kernels: pd.DataFrame) -> Iterator[Contest]:
    for rows in groups(kernels, ["run_id", *PROBLEM]):
        by_name = {row["contender"]: row for row in rows.to_dict("records")}
        ours = by_name.pop(OUR_KERNEL, None)
        # Another kernel of ours, such as tokenwatt_ws, is no baseline.
        baselines = {name: row for name, row in by_name.items() if not name.startswith(f"{OUR_KERNEL}_")}
        if ours is not None:
            yield Contest(ours["family"], ours["problem"], ours["dtype"], ours, baselines)


@dataclass(frozen=True, slots=True)
class FamilySummary:
    """What the problems of one family and dtype say together; values are per problem, where they were measured."""

    family: str
    dtype: str
    gpu_names: tuple[str, ...]
    first_day: str
    """UTC day on which the first was measured."""
    last_day: str
    problems: int
    best_over_ours: tuple[float, ...]
    """Time of the fastest baseline over ours."""
    joules_over_ours: tuple[float, ...]
    """Energy of a call of that baseline over that of ours."""
    fraction_of_limit: tuple[float, ...]

    @property
    def days(self) -> str:
        """When it was measured."""
        return self.first_day if self.first_day == self.last_day else f"{self.first_day} to {self.last_day}"


def summaries(contests: Sequence[Contest]) -> list[FamilySummary]:
    """One for each family and dtype, in the order of the contests: the facts of a table of kernels."""
    keys = dict.fromkeys((contest.family, contest.dtype) for contest in contests)
    return [_summary([contest for contest in contests if (contest.family, contest.dtype) == key]) for key in keys]


def _summary(contests: Sequence[Contest]) -> FamilySummary:
    days = sorted(f"{contest.ours['measured_at']:%Y-%m-%d}" for contest in contests)
    names = dict.fromkeys(contest.ours["gpu_name"] for contest in contests)
    return FamilySummary(
        contests[0].family,
        contests[0].dtype,
        tuple(name if isinstance(name, str) else "GPU without NVML" for name in names),
        days[0],
        days[-1],
        len(contests),
        _known(contest.best_over_ours for contest in contests),
        _known(contest.best_joules_over_ours for contest in contests),
        _known(contest.fraction_of_limit for contest in contests),
    )


def _known(values: Iterator[float | None]) -> tuple[float, ...]:
    return tuple(value for value in values if value is not None)
