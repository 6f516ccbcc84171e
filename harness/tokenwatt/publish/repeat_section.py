"""The page's part on repeatability: what was measured in two runs or more, and how far they are apart."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pandas as pd

from tokenwatt.analysis.points import groups, point_name
from tokenwatt.analysis.results import DECIDING
from tokenwatt.publish.markdown import table
from tokenwatt.publish.newest import POINT, PROBLEM
from tokenwatt.publish.numbers import microseconds, percent
from tokenwatt.record import OUR_KERNEL
from tokenwatt.report.tables import NOTHING
from tokenwatt.units import format_si

BAR = 0.02
"""Headline rows of two runs agree where they differ by no more; the project's own bar."""
_SYMBOLS = {"J/token": "J", "W": "W", "s": "s"}
HEAD = ("what", "runs", "apart", "boards", "values", "difference", "half interval", "within 2 %")


def repeat_section(measurements: pd.DataFrame, results: pd.DataFrame, kernels: pd.DataFrame) -> list[str]:
    """Lines of the section; it says so where nothing was repeated."""
    boards = {
        row["run_id"]: tuple(row["gpu_uuids"])
        for found in (measurements, kernels)
        for row in found.drop_duplicates("run_id").to_dict("records")
    }
    rows = [*_result_rows(results, boards), *_kernel_rows(kernels, boards)]
    if not rows:
        return ["## Repeatability", "", "Nothing was measured in two runs.", ""]
    agreeing = sum(row[-1] == "yes" for row in rows)
    told = (
        f"{agreeing} of {len(rows)} quantities that were measured in two runs or more agree within {percent(BAR, 0)}."
        " The difference is (highest - lowest) / mean over the runs; beside it stands the widest half of a run's own 95"
        " % interval, and for a kernel half of the way from the 20 % to the 80 % quantile, as shares of the mean."
    )
    return ["## Repeatability", "", told, "", *table(HEAD, rows), ""]


def _result_rows(results: pd.DataFrame, boards: dict[str, tuple[str, ...]]) -> list[list[str]]:
    headline = results[[row["quantity"] in DECIDING[row["phase"]] for row in results.to_dict("records")]]
    rows = []
    for same in groups(headline, [*POINT, "quantity"]):
        if same["run_id"].nunique() > 1:
            first = same.to_dict("records")[0]
            halves = ((same["high"] - same["low"]) / 2).dropna()
            values = [_amount(value, _SYMBOLS.get(first["unit"], "")) for value in same["mean"]]
            name = f"{point_name(first)}: {first['quantity'].replace('_', ' ')}"
            rows.append(_cells(name, same, same["mean"], values, halves, boards))
    return rows


def _kernel_rows(kernels: pd.DataFrame, boards: dict[str, tuple[str, ...]]) -> list[list[str]]:
    ours = kernels[(kernels["contender"] == OUR_KERNEL) & kernels["median_s"].notna()]
    rows = []
    for same in groups(ours, [*PROBLEM, "configuration"]):
        if same["run_id"].nunique() > 1:
            halves = (same["high_s"] - same["low_s"]) / 2
            values = [f"{microseconds(value)} µs" for value in same["median_s"]]
            name = " · ".join(str(same[column].iloc[0]) for column in PROBLEM)
            rows.append(_cells(name, same, same["median_s"], values, halves, boards))
    return rows


def _cells(
    name: str,
    rows: pd.DataFrame,
    means: pd.Series,
    values: Sequence[str],
    halves: pd.Series,
    boards: dict[str, tuple[str, ...]],
) -> list[str]:
    mean = float(means.mean())
    difference = float(means.max() - means.min()) / mean
    sets = {boards[run_id] for run_id in rows["run_id"]}
    return [
        name,
        f"{rows['run_id'].nunique()}",
        _apart(rows["measured_at"].max() - rows["measured_at"].min()),
        "none" if sets == {()} else ("same" if len(sets) == 1 else "different"),
        ", ".join(values),
        percent(difference, 2),
        NOTHING if halves.empty else percent(float(halves.max()) / mean, 2),
        "yes" if difference <= BAR else "no",
    ]


def _amount(value: float, symbol: str) -> str:
    """A value with a digit more than elsewhere, so that a difference of 2 % shows.

    >>> _amount(0.06671, "J"), _amount(12345.6, "")
    ('66.71 mJ', '12,346')
    """
    if symbol:
        return format_si(value, symbol, 4)
    return f"{value:,.0f}" if abs(value) >= 1e3 else f"{value:.4g}"


def _apart(time: timedelta) -> str:
    """A stretch of time in words.

    >>> _apart(timedelta(minutes=20)), _apart(timedelta(hours=3)), _apart(timedelta(days=3))
    ('20 min', '3.0 h', '3.0 d')
    """
    hours = time / timedelta(hours=1)
    if hours < 1:
        return f"{hours * 60:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} d"
