"""The report's chart: tokens/s by concurrency beside the physical limit, and energy per token where there is one."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from tokenwatt.analysis.points import point_name

PALETTE = ("#4477aa", "#ee6677", "#228833", "#c9a227", "#56b4d3", "#aa3377", "#888888")
"""Colour-blind safe, readable on white and on near-black."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
"""Of markers, one fewer than colours, so that lines of one colour differ."""
SERIES = ["engine", "model", "workload", "dtype", "gpu_name", "phase", "variant", "gpu_power_cap_w"]
"""A line of the chart is one combination of these."""
DEFAULT_NAME = ["engine", "model", "workload"]
PANEL_HEIGHT_PX = 420
NEAR = 4.0
"""Values within this ratio are drawn from zero."""

_POINT = "%{fullData.name}<br>%{x} in flight<br>"
_SPEED = _POINT + "%{y:,.4~g} token/s<br>%{customdata[0]} token/s per user<extra></extra>"
_LIMIT = _POINT + "limit %{y:,.4~g} token/s (%{customdata[1]})<extra></extra>"
_ENERGY = _POINT + "%{y:.3~g} J/token<br>%{customdata[0]} token/s per user<extra></extra>"


def throughput_figure(measurements: pd.DataFrame) -> dict[str, Any] | None:
    """Plotly figure as plain JSON values; None without one `ok` row of a closed loop with more than prompts.

    Needs the columns that `perf_model.limits.add_limits` appends.
    """
    from plotly.subplots import make_subplots

    # A window of phase prefill generates one token per prompt: a rate of output tokens says nothing about it.
    good = measurements[
        (measurements["status"] == "ok") & (measurements["phase"] != "prefill") & (measurements["load"] == "closed")
    ]
    good = outside_sweeps(good)
    if good.empty:
        return None
    has_energy = bool(good["joules_per_output_token"].notna().any())
    titles = ["Output tokens/s", "Board joules per output token"] if has_energy else ["Output tokens/s"]
    figure = make_subplots(rows=1, cols=len(titles), subplot_titles=titles, horizontal_spacing=0.09)
    for position, (name, rows) in enumerate(_series(good)):
        colour = PALETTE[position % len(PALETTE)]
        figure.add_trace(_line(name, rows, "output_tokens_per_s", colour, _SPEED), row=1, col=1)
        if rows["limit_output_tokens_per_s"].notna().any():
            figure.add_trace(_line(name, rows, "limit_output_tokens_per_s", colour, _LIMIT), row=1, col=1)
        if has_energy:
            figure.add_trace(_line(name, rows, "joules_per_output_token", colour, _ENERGY), row=1, col=2)
    ticks = sorted({int(value) for value in good["concurrency"]})
    figure.update_xaxes(type="log", title="requests in flight", tickvals=ticks, ticktext=[str(tick) for tick in ticks])
    figure.update_yaxes(type="log", tickformat="~s")
    if has_energy:
        figure.update_yaxes(**value_axis(good["joules_per_output_token"].dropna()), row=1, col=2)
    figure.update_layout(**plain_layout())
    return json.loads(str(figure.to_json()))


def outside_sweeps(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows outside sweeps and comparisons, which have charts and tables of their own; all where there are no others."""
    plain = rows[rows["gpu_power_cap_w"].isna() & rows["variant"].isna()]
    return rows if plain.empty else plain


def value_axis(values: pd.Series) -> dict[str, Any]:
    """A logarithmic axis with ticks at 1, 2, 5; from zero where the values lie too close for three of those."""
    if values.min() > 0 and values.max() / values.min() >= NEAR:
        return {"type": "log", "dtick": "D2"}
    return {"type": "linear", "rangemode": "tozero"}


def plain_layout() -> dict[str, Any]:
    """Layout of every chart: no ground of its own, so that the page's shows, in light and in dark."""
    return {
        "template": "none",
        "height": PANEL_HEIGHT_PX,
        "margin": {"l": 56, "r": 16, "t": 40, "b": 56},
        "legend": {"orientation": "h", "y": -0.22, "x": 0, "itemsizing": "constant"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"align": "left"},
    }


def _line(name: str, rows: pd.DataFrame, column: str, colour: str, hover: str) -> Any:
    """One trace, dotted for a limit."""
    import plotly.graph_objects as go

    is_limit = column.startswith("limit_")
    return go.Scatter(
        x=rows["concurrency"].tolist(),
        y=[None if pd.isna(value) else float(value) for value in rows[column]],
        name=f"{escaped(name)}: limit" if is_limit else escaped(name),
        legendgroup=name,
        showlegend=column == "output_tokens_per_s",
        mode="lines+markers",
        marker={"size": 4, "symbol": "circle-open"} if is_limit else {"size": 6},
        line={"color": colour, "width": 1.5, "dash": "dot"} if is_limit else {"color": colour, "width": 2},
        customdata=_hover_values(rows),
        hovertemplate=hover,
    )


def escaped(name: str) -> str:
    """Plotly reads a few tags in names: show them as text."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _series(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Lines with their names, which hold only what differs between lines."""
    telling = [column for column in SERIES if rows[column].nunique(dropna=False) > 1] or DEFAULT_NAME
    return [
        (
            point_name(group.iloc[0].to_dict(), telling),
            group.sort_values(["concurrency", "measured_at"]),
        )
        for _, group in rows.groupby(SERIES, sort=True, dropna=False)
    ]


def _hover_values(rows: pd.DataFrame) -> list[list[str]]:
    pairs = zip(rows["output_tokens_per_s_per_user"], rows["limit_bound"], strict=True)
    return [["–" if pd.isna(pace) else f"{pace:.3g}", "–" if pd.isna(bound) else str(bound)] for pace, bound in pairs]
