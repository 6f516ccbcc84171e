"""The table of results: a row per point with its phases side by side, each quantity with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tokenwatt.analysis.points import ASKED, groups, names, with_point
from tokenwatt.record import WORST_FIRST
from tokenwatt.report.tables import NOTHING, amount, maybe, span


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
_BUT_PHASE = tuple(column for column in ASKED if column != "phase")


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
        "stable": ", ".join(_stable(rows[rows["phase"] == phase], phase) for phase in phases),
        "energy": _worst(rows["energy_status"]),
        "converged": _converged(rows["has_converged"]),
    }


def _interval_cell(row: Mapping[Any, Any] | None, symbol: str) -> dict[str, str]:
    if row is None:
        return {"mean": NOTHING, "ends": ""}
    low, high = maybe(row["low"]), maybe(row["high"])
    ends = "no interval" if low is None or high is None else span(low, high, symbol)
    return {"mean": amount(row["mean"], symbol), "ends": ends}


def _stable(rows: pd.DataFrame, phase: str) -> str:
    """Of the quantity with the most windows, how many are stable."""
    widest = rows.loc[rows["windows"].idxmax()]
    return f"{phase} {widest['stable_windows']} of {widest['windows']}"


def _worst(statuses: pd.Series) -> str:
    """The worst verdict among those of a point's quantities."""
    return next((str(status) for status in WORST_FIRST if status in set(statuses)), "no energy")


def _converged(flags: pd.Series) -> str:
    asked = flags.dropna()
    if asked.empty:
        return "not asked"
    return "yes" if asked.astype(bool).all() else "no"
