"""The page's part on kernels: families together, the worst ratios, then every problem with all contenders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tokenwatt.publish.contests import Contest, FamilySummary, newest_contests, summaries
from tokenwatt.publish.markdown import code, table
from tokenwatt.publish.newest import PROBLEM
from tokenwatt.publish.numbers import mean_and_range, mean_and_range_percent, microseconds, percent, ratio
from tokenwatt.report.tables import NOTHING, maybe, words
from tokenwatt.units import format_si

WORST = 10
"""Ratios in the list of the worst."""
SUMMARY_HEAD = (
    "family",
    "dtype",
    "problems",
    "fastest baseline's time over ours",
    "its joules over ours",
    "fraction of the limit",
)


def kernel_section(kernels: pd.DataFrame) -> list[str]:
    """Lines of the section; none without rows."""
    contests = newest_contests(kernels)
    if not contests:
        return []
    lines = ["## Kernels", "", *_explained(kernels), ""]
    lines += [*table(SUMMARY_HEAD, map(summary_cells, summaries(contests))), ""]
    lines += _worst(contests)
    for family in dict.fromkeys(contest.family for contest in contests):
        lines += [f"### {family}", "", *_family([each for each in contests if each.family == family]), ""]
    return [*lines, *_doubts(kernels)]


def _explained(kernels: pd.DataFrame) -> list[str]:
    again = kernels.drop_duplicates(["run_id", *PROBLEM]).duplicated(list(PROBLEM)).sum()
    several = (
        f" Contests that a later run repeated: {again}. These tables show the newest, `kernels.parquet` has all."
        if again
        else ""
    )
    return [
        "Times are device times of one call with a cold L2 cache, medians with the 20 % and 80 % quantiles. The limit",
        "is the greater of flop over the measured rate and bytes over the measured bandwidth, as the row has them. In",
        "ratios, above 1 our kernel is faster, or takes fewer joules. Means are geometric, with the lowest and highest."
        f"{several}",
    ]


def summary_cells(summary: FamilySummary) -> tuple[str, ...]:
    """A row of the table of families."""
    return (
        summary.family,
        summary.dtype,
        f"{summary.problems}" if len(summary.best_over_ours) == summary.problems else _of(summary),
        mean_and_range(summary.best_over_ours),
        mean_and_range(summary.joules_over_ours),
        mean_and_range_percent(summary.fraction_of_limit),
    )


def _of(summary: FamilySummary) -> str:
    return f"{len(summary.best_over_ours)} of {summary.problems} with a baseline"


def _worst(contests: Sequence[Contest]) -> list[str]:
    slower = [(contest.best_over_ours, contest) for contest in contests if contest.best_over_ours is not None]
    found = sorted(slower, key=lambda pair: pair[0])[:WORST]
    rows = [
        (contest.family, contest.problem, contest.dtype, str(contest.best["contender"]), ratio(value))
        for value, contest in found
        if contest.best is not None
    ]
    head = ("family", "problem", "dtype", "fastest baseline", "its time over ours")
    return ["### Worst ratios", "", *table(head, rows), ""] if rows else []


def _family(contests: Sequence[Contest]) -> list[str]:
    names = list(dict.fromkeys(name for contest in contests for name in contest.baselines))
    head = ["problem", "dtype", "ours, µs", "20 to 80 %", "limit, µs", "of limit"]
    head += [f"{name}: time (J) over ours" for name in names] + ["J per call", "tile"]
    return table(head, [_contest_cells(contest, names) for contest in contests])


def _contest_cells(contest: Contest, names: Sequence[str]) -> list[str]:
    ours = contest.ours
    ends = [microseconds(maybe(ours[name])) for name in ("low_s", "high_s")]
    return [
        contest.problem,
        contest.dtype,
        str(ours["status"]) if contest.median_s is None else microseconds(contest.median_s),
        NOTHING if contest.median_s is None else " to ".join(ends),
        microseconds(contest.limit_s),
        percent(contest.fraction_of_limit, 0),
        *(_baseline_cell(contest, contest.baselines.get(name)) for name in names),
        _joules(ours),
        code(str(ours["configuration"])) or NOTHING,
    ]


def _baseline_cell(contest: Contest, row: Mapping[Any, Any] | None) -> str:
    if row is None:
        return NOTHING
    if row["status"] != "measured":
        return str(row["status"])
    joules = contest.joules_over_ours(row)
    doubt = "" if row["energy_status"] == "valid" else f", {row['energy_status']}"
    time = ratio(maybe(row["time_over_ours"])) if contest.median_s else f"{microseconds(float(row['median_s']))} µs"
    return time if joules is None else f"{time} ({ratio(joules)}{doubt})"


def _joules(row: Mapping[Any, Any]) -> str:
    """Energy of a call, or why there is none."""
    status = str(row["energy_status"])
    if maybe(row["joules_per_call"]) is None:
        return status.replace("_", " ")
    return format_si(float(row["joules_per_call"]), "J") + ("" if status == "valid" else f" ({status})")


def _doubts(kernels: pd.DataFrame) -> list[str]:
    """Rows of all runs without a time, or whose energy is doubted, with the reasons that they share."""
    doubted = kernels[(kernels["status"] != "measured") | kernels["energy_status"].isin(["suspect", "invalid"])]
    if doubted.empty:
        return []
    counts: dict[tuple[str, ...], list[str]] = {}
    for row in doubted.to_dict("records"):
        energy = "" if row["status"] != "measured" else str(row["energy_status"])
        why = "; ".join(filter(None, (", ".join(row["reasons"]), words(row["energy_reasons"]))))
        key = (row["run_id"], row["family"], row["contender"], row["status"], energy, why)
        counts.setdefault(key, []).append(f"{row['problem']} {row['dtype']}")
    rows = [(*key, ", ".join(problems)) for key, problems in counts.items()]
    head = ("run", "family", "contender", "status", "energy", "reasons", "problems")
    return ["### Rows without a time, or with doubted energy", "", *table(head, rows), ""]
