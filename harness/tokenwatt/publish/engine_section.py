"""The page's part on engines: every point with its verdict, closure, and engines beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tokenwatt.analysis.answers import answers_of
from tokenwatt.analysis.points import groups, load_name, point_name
from tokenwatt.analysis.results import DECIDING
from tokenwatt.publish.markdown import table
from tokenwatt.publish.newest import POINT, newest
from tokenwatt.publish.numbers import percent, ratio
from tokenwatt.record import WORST_FIRST
from tokenwatt.report.closure_table import TERMS, closure_points
from tokenwatt.report.reasons import meanings
from tokenwatt.report.tables import NOTHING, maybe, number, span, words
from tokenwatt.units import format_si

OWN_ENGINE = "native"
"""Engine that others are divided by."""
HEAD = (
    "run",
    "engine",
    "model",
    "dtype, weights, cache",
    "workload",
    "load",
    "phase",
    "tokens/s",
    "J/token",
    "95 % interval",
    "power",
    "of limit",
    "TTFT",
    "TPOT",
    "windows",
    "energy",
)
_BESIDE = tuple(column for column in POINT if column not in ("engine", "weights_source", "kv_cache_dtype"))
"""What engines must have in common to stand beside each other."""

Means = Mapping[tuple[str, str, str], Mapping[Any, Any]]
"""Run, point, quantity -> row of `results`."""


def engine_section(measurements: pd.DataFrame, results: pd.DataFrame, closure: pd.DataFrame) -> list[str]:
    """Lines of the section; none without rows."""
    if measurements.empty:
        return []
    means = {(row["run_id"], row["point_id"], row["quantity"]): row for row in results.to_dict("records")}
    rows = [_point_cells(point, means) for point in groups(measurements, ["run_id", "point_id"])]
    lines = ["## Engines", "", *_EXPLAINED, "", *table(HEAD, rows), ""]
    lines += [*_beside(measurements, means), *_closure(measurements, closure), *_reasons(measurements)]
    return lines


_EXPLAINED = (
    "A row is a point of a run: the mean over its windows. Tokens are generated ones, and in phase prefill those of",
    "prompts; joules are those of the boards, and in phase mixed prefill is inside them. The limit is the least time",
    "of the windows' steps by the measured ceilings. TTFT and TPOT are medians. Random weights have the shapes",
    "of the model and cost what its own would; their answers mean nothing.",
)


def _point_cells(point: pd.DataFrame, means: Means) -> list[str]:
    row = point.to_dict("records")[0]
    energy, speed = DECIDING[row["phase"]]
    joules, tokens, power, ttft, tpot = (
        means.get((row["run_id"], row["point_id"], quantity))
        for quantity in (energy, speed, "gpu_power_w", "ttft_median_s", "tpot_median_s")
    )
    good = point[point["status"] == "ok"]
    fractions = good["fraction_of_limit"].dropna()
    return [
        row["run_id"],
        row["engine"],
        _word(row["model"]) + ("" if row["weights_source"] == "none" else f" ({row['weights_source']} weights)"),
        "; ".join(filter(None, (_formats(row), answers_of(row)))),
        row["workload"],
        load_name(row),
        " ".join(filter(None, (row["phase"], point_name(row, ("variant",)).replace(NOTHING, ""), _cap(row)))),
        number(None if tokens is None else tokens["mean"]),
        format_si(_mean(joules), "J"),
        _interval(joules),
        format_si(_mean(power), "W"),
        NOTHING if fractions.empty else percent(float(fractions.mean())),
        format_si(_mean(ttft), "s"),
        format_si(_mean(tpot), "s"),
        _windows(point, good),
        _verdict(point),
    ]


def _formats(row: Mapping[Any, Any]) -> str:
    return ", ".join(_word(row[column]) for column in ("dtype", "quantization", "kv_cache_dtype"))


def _word(value: object) -> str:
    return value if isinstance(value, str) else NOTHING


def _cap(row: Mapping[Any, Any]) -> str:
    cap_w = maybe(row["gpu_power_cap_w"])
    return "" if cap_w is None else f"cap {cap_w:g} W"


def _mean(result: Mapping[Any, Any] | None) -> float | None:
    return None if result is None else maybe(result["mean"])


def _interval(result: Mapping[Any, Any] | None) -> str:
    if result is None:
        return NOTHING
    low, high = maybe(result["low"]), maybe(result["high"])
    return "no interval" if low is None or high is None else span(low, high, "J")


def _windows(point: pd.DataFrame, good: pd.DataFrame) -> str:
    """How many are good and stable, and what the others are."""
    stable = int(good["is_stable"].eq(True).sum())
    told = [] if good.empty else [f"{len(good)}, {stable} stable"]
    for row in point[point["status"] != "ok"].to_dict("records"):
        told.append(" ".join(filter(None, (row["status"], words(row["reasons"]), _word(row["detail"])))))
    doubts = {reason for cell in good["reasons"] for reason in cell}
    return "; ".join(told + ([words(sorted(doubts))] if doubts else []))


def _verdict(point: pd.DataFrame) -> str:
    """The verdicts of the windows with their number, the worst first, and why."""
    counts = point["energy_status"].value_counts()
    found = [f"{counts[status]} {status.replace('_', ' ')}" for status in WORST_FIRST if status in counts]
    reasons = sorted({reason for cell in point["energy_reasons"] for reason in cell})
    return ", ".join(found) + (f": {words(reasons)}" if reasons else "")


def _beside(measurements: pd.DataFrame, means: Means) -> list[str]:
    """Points that several engines ran: each engine's newest, over our own."""
    rows = []
    for same in groups(newest(measurements, POINT), [*_BESIDE, "workload_sha256"]):
        engines = [point.to_dict("records")[0] for point in groups(same, ["run_id", "point_id"])]
        if len({row["engine"] for row in engines}) > 1:
            own = next((row for row in engines if row["engine"] == OWN_ENGINE), engines[0])
            rows += [_beside_cells(row, own, means) for row in engines]
    head = ("model", "workload", "phase", "load", "engine", "tokens/s", "over", "J/token", "over")
    if not rows:
        return []
    told = f"Both ratios are over {OWN_ENGINE}, or over the first engine where it did not run."
    return ["### Engines beside each other", "", told, "", *table(head, rows), ""]


def _beside_cells(row: Mapping[Any, Any], own: Mapping[Any, Any], means: Means) -> list[str]:
    energy, speed = DECIDING[row["phase"]]
    (joules, own_joules), (tokens, own_tokens) = (
        [_mean(means.get((each["run_id"], each["point_id"], quantity))) for each in (row, own)]
        for quantity in (energy, speed)
    )
    return [
        _word(row["model"]),
        row["workload"],
        row["phase"],
        load_name(row),
        f"{row['engine']}, {', '.join(_word(row[name]) for name in ('dtype', 'quantization'))}",
        number(tokens),
        ratio(_over(tokens, own_tokens)),
        format_si(joules, "J"),
        ratio(_over(joules, own_joules)),
    ]


def _over(value: float | None, own: float | None) -> float | None:
    return value / own if value is not None and own else None


def _closure(measurements: pd.DataFrame, closure: pd.DataFrame) -> list[str]:
    points = closure_points(measurements, closure)
    if points.empty:
        return []
    named = measurements.drop_duplicates(["run_id", "point_id"]).to_dict("records")
    names = {(row["run_id"], row["point_id"]): point_name(row) for row in named}
    rows = [_closure_cells(terms, names) for terms in groups(points, ["run_id", "point_id"])]
    told = "Shares of the windows' energy; the rest is what static power and the families leave unexplained."
    return ["### Closure", "", told, "", *table(("run", "point", *TERMS, "energy", "windows"), rows), ""]


def _closure_cells(terms: pd.DataFrame, names: Mapping[tuple[str, str], str]) -> list[str]:
    shares = {row["term"]: maybe(row["share"]) for row in terms.to_dict("records")}
    place = str(terms["run_id"].iloc[0]), str(terms["point_id"].iloc[0])
    return [
        place[0],
        names[place],
        *(percent(shares.get(term)) for term in TERMS),
        format_si(float(terms["energy_j"].sum()), "J"),
        f"{int(terms['windows'].max())}",
    ]


def _reasons(measurements: pd.DataFrame) -> list[str]:
    """What the reasons that occur mean."""
    found = {reason for column in ("reasons", "energy_reasons") for cell in measurements[column] for reason in cell}
    listed: Sequence[tuple[str, str]] = meanings(found)
    return ["Reasons:", "", *(f"* *{name}*: {text}." for name, text in listed), ""] if listed else []
