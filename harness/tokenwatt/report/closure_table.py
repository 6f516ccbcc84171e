"""The table of closure: which share of a point's joules static power and each kernel family explain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from tokenwatt.analysis.points import groups, names, with_point
from tokenwatt.report.tables import NOTHING, maybe, percent
from tokenwatt.units import format_si

TERMS = ("static", "attention", "matmul", "moe", "fused", "rest")
"""Terms of a closure, in the order of the bar."""
_PICO = 1e-12


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
