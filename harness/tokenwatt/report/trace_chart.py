"""The report's power traces: what the boards drew before, in and after each window of a point."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from tokenwatt.analysis.points import groups, names
from tokenwatt.record import LOAD_COLUMNS
from tokenwatt.report.chart import PALETTE, escaped, plain_layout

POINTS_PER_BOARD = 600
"""Of a power trace: a screen shows no more, and the page stays small."""
POINTS_IN_ALL = 60_000
"""Of all power traces of a page, about a megabyte of text."""
_SHADE = "rgba(128,128,128,0.22)"


def trace_figures(measurements: pd.DataFrame, power: pd.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    """Sampled board power over time, one figure per point with its windows shaded, each with the point's name."""
    windows = measurements[["run_id", "measurement_id", "point_id"]]
    readings = power[power["power_w"].notna()].merge(windows, on=["run_id", "measurement_id"], how="inner")
    if readings.empty:
        return []
    drawn = measurements[measurements["point_id"].isin(set(readings["point_id"]))]
    drawn = drawn.assign(name=names(drawn, ("engine", "model", "workload", *LOAD_COLUMNS.values())))
    boards = readings.groupby("point_id")["source"].nunique().sum()
    budget = max(min(POINTS_PER_BOARD, POINTS_IN_ALL // int(boards)), 2)
    return [
        (rows["name"].iloc[0], _trace_figure(rows, readings[readings["point_id"] == rows["point_id"].iloc[0]], budget))
        for rows in groups(drawn, ["run_id", "point_id"])
    ]


def _trace_figure(windows: pd.DataFrame, readings: pd.DataFrame, budget: int) -> dict[str, Any]:
    import plotly.graph_objects as go

    figure = go.Figure()
    for position, (source, rows) in enumerate(readings.groupby("source", sort=True)):
        few = thinned(rows.drop_duplicates("at_s").sort_values("at_s"), budget)
        figure.add_trace(
            go.Scatter(
                x=few["at_s"].round(3).tolist(),
                y=few["power_w"].round(1).tolist(),
                name=escaped(str(source)),
                mode="lines",
                line={"color": PALETTE[position % len(PALETTE)], "width": 1.2},
                hovertemplate="%{x:.2f} s<br>%{y:.0f} W<extra>%{fullData.name}</extra>",
            )
        )
    for row in windows.dropna(subset=["window_start_s", "window_s"]).to_dict("records"):
        end_s = row["window_start_s"] + row["window_s"]
        edge = {"color": _SHADE, "width": 1}
        figure.add_vrect(x0=row["window_start_s"], x1=end_s, fillcolor=_SHADE, line=edge, layer="below")
    figure.update_xaxes(title="seconds on the run's clock")
    figure.update_yaxes(title="board power, W", rangemode="tozero", automargin=True)
    figure.update_layout(**plain_layout(), showlegend=True)
    return json.loads(str(figure.to_json()))


def thinned(rows: pd.DataFrame, budget: int) -> pd.DataFrame:
    """At most `budget` of the rows, sorted by `at_s`: the lowest and the highest power of equal stretches of time.

    A mean would hide the peaks and dips that a reader looks for.
    """
    if len(rows) <= budget:
        return rows
    first_s, last_s = rows["at_s"].iloc[0], rows["at_s"].iloc[-1]
    stretches = max(budget // 2, 1)
    stretch = ((rows["at_s"] - first_s) / (last_s - first_s) * stretches).astype(int).clip(upper=stretches - 1)
    by_stretch = rows["power_w"].astype("float64").groupby(stretch)
    return rows.loc[sorted({*by_stretch.idxmin(), *by_stretch.idxmax()})].sort_values("at_s")
