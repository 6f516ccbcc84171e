"""Rows of the report's energy tables: results with intervals, comparisons, caps, closure, each window's verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tokenwatt.analysis.paired import PairedRatio, paired_ratios
from tokenwatt.analysis.points import ASKED, CONFIGURATION, groups, names, with_point
from tokenwatt.analysis.power_caps import CapFrontier, CapPoint, Estimate, sentence
from tokenwatt.report.tables import NOTHING, maybe, number, words
from tokenwatt.units import format_si


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity of the results: where it stands among them and how it is written."""

    label: str
    phase: str
    quantities: tuple[str, ...]
    """Names under which it may be found, the first that is there."""
    symbol: str
    """Unit as a reader sees it; empty for a plain number."""


FIGURES = (
    Figure("Output tokens/s", "mixed", ("output_tokens_per_s",), ""),
    Figure("J per output token", "mixed", ("joules_per_output_token",), "J"),
    Figure("Marginal J per output token", "mixed", ("marginal_joules_per_output_token",), "J"),
    Figure("Prefill, J per input token", "prefill", ("prefill_joules_per_input_token", "joules_per_input_token"), "J"),
    Figure("Decode, J per output token", "decode", ("decode_joules_per_output_token", "joules_per_output_token"), "J"),
)
TERMS = ("static", "attention", "matmul", "moe", "fused", "rest")
"""Terms of a closure, in the order of the bar."""
RATIOS = (("output_tokens_per_s", "Output tokens/s"), ("joules_per_output_token", "J per output token"))
_BUT_PHASE = tuple(column for column in ASKED if column != "phase")
_PICO = 1e-12


def result_figures(measurements: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """Results that the report shows, each with its `figure` (position in `FIGURES`) and the columns of its point."""
    rows = with_point(results, measurements)
    found = [_figure_of(phase, quantity) for phase, quantity in zip(rows["phase"], rows["quantity"], strict=True)]
    rows = rows.assign(figure=pd.Series(found, rows.index, dtype="object"))
    return rows[rows["figure"].notna()]


def _figure_of(phase: str, quantity: str) -> int | None:
    places = (place for place, figure in enumerate(FIGURES) if figure.phase == phase and quantity in figure.quantities)
    return next(places, None)


def result_rows(figures: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per point with its phases side by side; `figures` are those of `result_figures`."""
    if figures.empty:
        return []
    named = figures.assign(name=names(figures.assign(phase="")))
    return [_result_row(rows) for rows in groups(named, _BUT_PHASE)]


def _result_row(rows: pd.DataFrame) -> dict[str, Any]:
    by_figure = {int(row["figure"]): row for row in rows.to_dict("records")}
    phases = [phase for phase in ("mixed", "prefill", "decode") if phase in set(rows["phase"])]
    counts = {phase: int(rows.loc[rows["phase"] == phase, "windows"].max()) for phase in phases}
    return {
        "name": rows["name"].iloc[0],
        "cells": [_interval_cell(by_figure.get(place), figure.symbol) for place, figure in enumerate(FIGURES)],
        "windows": ", ".join(f"{phase} {count}" for phase, count in counts.items()),
        "converged": _converged(rows["has_converged"]),
    }


def _interval_cell(row: Mapping[Any, Any] | None, symbol: str) -> dict[str, str]:
    if row is None:
        return {"mean": NOTHING, "ends": ""}
    low, high = maybe(row["low"]), maybe(row["high"])
    ends = "no interval" if low is None or high is None else span(low, high, symbol)
    return {"mean": amount(row["mean"], symbol), "ends": ends}


def _converged(flags: pd.Series) -> str:
    asked = flags.dropna()
    if asked.empty:
        return "not asked"
    return "yes" if asked.astype(bool).all() else "no"


def amount(value: float, symbol: str) -> str:
    """A value with its unit, or a plain number with four digits.

    >>> amount(0.0667, "J"), amount(12345.6, "")
    ('66.7 mJ', '12,346')
    """
    return format_si(value, symbol) if symbol else number(value)


def span(low: float, high: float, symbol: str) -> str:
    """Both ends of an interval, the unit once where they share it.

    >>> span(0.591, 0.609, "J"), span(0.9, 1.1, "J"), span(891, 909, "")
    ('591 to 609 mJ', '900 mJ to 1.10 J', '891 to 909')
    """
    first, last = amount(low, symbol), amount(high, symbol)
    value, _, unit = first.partition(" ")
    return f"{value} to {last}" if last.endswith(f" {unit}") else f"{first} to {last}"


def percent(share: float) -> str:
    """A share in percent.

    >>> percent(0.0612)
    '6.1 %'
    """
    return f"{share * 100:.1f} %"


def comparison_rows(measurements: pd.DataFrame) -> list[dict[str, Any]]:
    """B over A for each comparison and quantity, with its interval in words."""
    labels = dict(RATIOS)
    found = paired_ratios(measurements, tuple(labels))
    return [
        {
            "name": each.name,
            "quantity": labels[each.quantity],
            "a": amount(each.a, "J" if each.quantity.startswith("joules") else ""),
            "b": amount(each.b, "J" if each.quantity.startswith("joules") else ""),
            "pairs": each.pairs,
            "ratio": f"{each.ratio:.3f}",
            "ends": "no interval" if each.low is None else f"{each.low:.3f} to {each.high:.3f}",
            "verdict": _ratio_verdict(each),
        }
        for each in found
    ]


def variants(measurements: pd.DataFrame) -> list[tuple[str, str]]:
    """What A and B are: the columns in which they differ."""
    sides = measurements[measurements["variant"].notna()]
    if sides.empty:
        return []
    columns = [column for column in CONFIGURATION if sides[column].nunique(dropna=False) > 1]
    return [
        (str(side), "; ".join(dict.fromkeys(_side(row, columns) for row in rows.to_dict("records"))) or "same columns")
        for side, rows in sides.groupby("variant")
    ]


def _side(row: Mapping[Any, Any], columns: Sequence[str]) -> str:
    return ", ".join(f"{column} {NOTHING if pd.isna(row[column]) else row[column]}" for column in columns)


def _ratio_verdict(ratio: PairedRatio) -> str:
    if ratio.is_apart is None:
        return "one pair: not to be said"
    if not ratio.is_apart:
        return "no difference beyond noise"
    return f"B {percent(abs(ratio.ratio - 1))} {'higher' if ratio.ratio > 1 else 'lower'}"


def cap_sections(found: Sequence[CapFrontier]) -> list[dict[str, Any]]:
    """Each sweep with its sentence and a row per cap."""
    return [
        {
            "name": frontier.name,
            "sentence": sentence(frontier),
            "rows": [_cap_row(point, frontier) for point in frontier.points],
        }
        for frontier in found
    ]


def _cap_row(point: CapPoint, frontier: CapFrontier) -> dict[str, Any]:
    reference = frontier.reference.tokens_per_s.mean
    return {
        "cap": point.label,
        "speed": _estimate_cell(point.tokens_per_s),
        "frugality": _estimate_cell(point.tokens_per_j),
        "share": percent(point.tokens_per_s.mean / reference) if reference else NOTHING,
        "windows": point.windows,
        "note": "best" if point is frontier.best else "on the frontier" if point.is_pareto else "beaten in both",
    }


def _estimate_cell(estimate: Estimate) -> dict[str, str]:
    has_ends = estimate.low is not None and estimate.high is not None
    ends = f"{number(estimate.low)} to {number(estimate.high)}" if has_ends else "no interval"
    return {"mean": number(estimate.mean), "ends": ends}


def closure_points(measurements: pd.DataFrame, closure: pd.DataFrame) -> pd.DataFrame:
    """Energy of each term per point, the mean over its windows: columns `name`, `term`, `energy_j`, `share`, prices.

    `share` is that of all terms together, which is the windows' energy.
    """
    windows = measurements[["run_id", "measurement_id", "point_id"]]
    rows = with_point(closure.merge(windows, on=["run_id", "measurement_id"], how="inner"), measurements)
    if rows.empty:
        return pd.DataFrame(
            columns=["name", "term", "energy_j", "share", "joules_per_flop", "joules_per_byte", "windows"]
        )
    rows = rows.assign(name=names(rows))
    terms = rows.groupby(["run_id", "point_id", "name", "term"], sort=False).agg(
        energy_j=("energy_j", "mean"),
        joules_per_flop=("joules_per_flop", "mean"),
        joules_per_byte=("joules_per_byte", "mean"),
        windows=("measurement_id", "nunique"),
    )
    total = terms.groupby(["run_id", "point_id"], sort=False)["energy_j"].transform("sum")
    return terms.assign(share=terms["energy_j"] / total.where(total > 0)).reset_index()


def closure_rows(points: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per point with a cell per term and the rest in words; `points` are those of `closure_points`."""
    return [_closure_row(rows) for rows in groups(points, ["run_id", "point_id"])]


def _closure_row(rows: pd.DataFrame) -> dict[str, Any]:
    by_term = {row["term"]: row for row in rows.to_dict("records")}
    total_j = float(rows["energy_j"].sum())
    rest = by_term.get("rest")
    return {
        "name": rows["name"].iloc[0],
        "energy": format_si(total_j, "J"),
        "windows": int(rows["windows"].max()),
        "cells": [_term_cell(by_term.get(term)) for term in TERMS],
        "words": NOTHING if rest is None or pd.isna(rest["share"]) else _rest_words(float(rest["share"]), total_j),
    }


def _term_cell(row: Mapping[Any, Any] | None) -> dict[str, Any]:
    if row is None or pd.isna(row["share"]):
        return {"share": NOTHING, "energy": "", "prices": []}
    prices = [
        f"{value / _PICO:.3g} pJ/{unit}"
        for value, unit in ((maybe(row["joules_per_flop"]), "FLOP"), (maybe(row["joules_per_byte"]), "byte"))
        if value is not None
    ]
    return {"share": percent(row["share"]), "energy": format_si(row["energy_j"], "J"), "prices": prices}


def _rest_words(share: float, total_j: float) -> str:
    """What is left open.

    >>> _rest_words(0.04, 20000.0), _rest_words(-0.03, 20000.0)
    ('4.0 % of 20.0 kJ unexplained', 'the parts add up to 3.0 % more than 20.0 kJ')
    """
    total = format_si(total_j, "J")
    if share < 0:
        return f"the parts add up to {percent(-share)} more than {total}"
    return f"{percent(share)} of {total} unexplained"


def verdict_summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many windows have which verdict.

    >>> verdict_summary([{"status": "valid"}, {"status": "suspect"}, {"status": "valid"}])
    '2 valid, 1 suspect'
    """
    statuses = [row["status"] for row in rows]
    return ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))


def verdict_rows(measurements: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per window that a meter was open for, or was meant to be."""
    metered = measurements[
        (measurements["energy_status"] != "no_meter") | (measurements["node_energy_status"] != "no_meter")
    ]
    named = metered.assign(name=names(metered, ("engine", "model", "workload", "concurrency")))
    return [_verdict_row(row) for row in named.to_dict("records")]


def _verdict_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    status = str(row["energy_status"])
    return {
        "id": row["measurement_id"],
        "name": row["name"],
        "window": int(row["window_index"]),
        "status": status.replace("_", " "),
        "reasons": words(row["energy_reasons"]),
        "energy": _with_half_width(row["gpu_energy_j"], row["gpu_energy_half_width_j"]),
        "per_gpu": " + ".join(format_si(float(each), "J") for each in row["gpu_energy_by_gpu_j"]),
        "counter": _si(row["gpu_energy_counter_j"], "J"),
        "sampled": _si(row["gpu_energy_sampled_j"], "J"),
        "difference": _signed_share(row["gpu_energy_relative_difference"]),
        "power": _si(row["gpu_power_w"], "W"),
        "peak": _si(row["gpu_power_peak_w"], "W"),
        "standing": " / ".join(number(row[column]) for column in _STANDING) + " W",
        "limit": _of(row["gpu_power_limit_w"], row["gpu_power_limit_default_w"]),
        "sm_clock": _mean_and_min(row["gpu_sm_clock_hz"], row["gpu_sm_clock_min_hz"]),
        "memory_clock": _mean_and_min(row["gpu_memory_clock_hz"], row["gpu_memory_clock_min_hz"]),
        "temperature": _start_to_end(row["gpu_temperature_start_c"], row["gpu_temperature_end_c"]),
        "slope": _slope(row["gpu_temperature_slope_c_per_s"]),
        "throttle": words(row["throttle_reasons"]) or "none",
        "others": NOTHING if pd.isna(row["gpu_other_processes"]) else str(int(row["gpu_other_processes"])),
        "ecc": NOTHING if pd.isna(row["gpu_ecc"]) else "on" if row["gpu_ecc"] else "off",
        "node": _si(row["node_energy_j"], "J"),
        "node_note": _node_note(row),
    }


_STANDING = ("gpu_idle_power_w", "gpu_static_power_w", "gpu_idle_power_after_w")


def _si(value: Any, symbol: str) -> str:
    return format_si(maybe(value), symbol)


def _with_half_width(energy_j: Any, half_width_j: Any) -> str:
    half = maybe(half_width_j)
    return _si(energy_j, "J") if half is None else f"{_si(energy_j, 'J')} ± {format_si(half, 'J', 2)}"


def _signed_share(value: Any) -> str:
    return NOTHING if pd.isna(value) else f"{value * 100:+.2f} %"


def _of(limit_w: Any, default_w: Any) -> str:
    return NOTHING if pd.isna(limit_w) else f"{limit_w:g} of {NOTHING if pd.isna(default_w) else f'{default_w:g}'} W"


def _mean_and_min(mean_hz: Any, min_hz: Any) -> str:
    least = "" if pd.isna(min_hz) else f", least {_si(min_hz, 'Hz')}"
    return NOTHING if pd.isna(mean_hz) else _si(mean_hz, "Hz") + least


def _start_to_end(start_c: Any, end_c: Any) -> str:
    return NOTHING if pd.isna(start_c) or pd.isna(end_c) else f"{start_c:.0f} to {end_c:.0f} °C"


def _slope(slope_c_per_s: Any) -> str:
    return "" if pd.isna(slope_c_per_s) else f"{slope_c_per_s * 60:+.2f} °C/min"


def _node_note(row: Mapping[Any, Any]) -> str:
    """The node meter and its verdict; empty where none was asked for."""
    if not isinstance(row["node_meter"], str):
        return ""
    reasons = words(row["node_energy_reasons"])
    return f"{row['node_meter']}, {str(row['node_energy_status']).replace('_', ' ')}" + (
        f": {reasons}" if reasons else ""
    )
