"""The report's chart: tokens/s by concurrency with the physical limit beside, and energy per token where there is one."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

PALETTE = ("#4477aa", "#ee6677", "#228833", "#c9a227", "#56b4d3", "#aa3377", "#888888")
"""Colour-blind safe, readable on white and on near-black."""
SERIES = ["engine", "model", "workload", "dtype", "gpu_name"]
PANEL_HEIGHT_PX = 420


def throughput_figure(measurements: pd.DataFrame) -> dict[str, Any] | None:
    """Plotly figure as plain JSON values; None without one `ok` row. Needs the columns of `perf_model.limits.add_limits`."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    good = measurements[measurements["status"] == "ok"]
    if good.empty:
        return None
    has_energy = good["joules_per_output_token"].notna().any()
    titles = ["Output tokens/s", "Board joules per output token"] if has_energy else ["Output tokens/s"]
    figure = make_subplots(rows=1, cols=len(titles), subplot_titles=titles, horizontal_spacing=0.09)
    for position, (name, rows) in enumerate(_series(good)):
        colour = PALETTE[position % len(PALETTE)]
        common = {"x": rows["concurrency"].tolist(), "legendgroup": name, "customdata": _hover_values(rows)}
        figure.add_trace(
            go.Scatter(
                **common,
                y=_values(rows["output_tokens_per_s"]),
                name=name,
                mode="lines+markers",
                line={"color": colour, "width": 2},
                hovertemplate=_HOVER + "%{y:,.4~g} token/s<br>%{customdata[0]} token/s per user<extra></extra>",
            ),
            row=1,
            col=1,
        )
        if rows["limit_output_tokens_per_s"].notna().any():
            figure.add_trace(
                go.Scatter(
                    **common,
                    y=_values(rows["limit_output_tokens_per_s"]),
                    name=f"{name}: limit",
                    showlegend=False,
                    mode="lines",
                    line={"color": colour, "width": 1.5, "dash": "dot"},
                    hovertemplate=_HOVER + "limit %{y:,.4~g} token/s (%{customdata[1]})<extra></extra>",
                ),
                row=1,
                col=1,
            )
        if has_energy:
            figure.add_trace(
                go.Scatter(
                    **common,
                    y=_values(rows["joules_per_output_token"]),
                    name=name,
                    showlegend=False,
                    mode="lines+markers",
                    line={"color": colour, "width": 2},
                    hovertemplate=_HOVER + "%{y:.3~g} J/token<br>%{customdata[0]} token/s per user<extra></extra>",
                ),
                row=1,
                col=2,
            )
    ticks = sorted({int(value) for value in good["concurrency"]})
    figure.update_xaxes(type="log", title="requests in flight", tickvals=ticks, ticktext=[str(tick) for tick in ticks])
    figure.update_yaxes(type="log", exponentformat="SI", minexponent=3)
    figure.update_layout(
        template="none",
        height=PANEL_HEIGHT_PX,
        margin={"l": 56, "r": 16, "t": 40, "b": 56},
        legend={"orientation": "h", "y": -0.22, "x": 0},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"align": "left"},
    )
    return json.loads(str(figure.to_json()))


_HOVER = "%{fullData.name}<br>%{x} in flight<br>"


def _series(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """One line per engine, model, workload, precision and GPU; its name holds only what differs between lines."""
    telling = [column for column in SERIES if rows[column].nunique(dropna=False) > 1] or SERIES[:3]
    groups = rows.fillna(dict.fromkeys(SERIES, "–")).groupby(SERIES, sort=True)
    return [
        (
            " · ".join(str(group[column].iloc[0]) for column in telling),
            group.sort_values(["concurrency", "measured_at"]),
        )
        for _, group in groups
    ]


def _values(column: pd.Series) -> list[float | None]:
    return [None if pd.isna(value) else float(value) for value in column]


def _hover_values(rows: pd.DataFrame) -> list[list[str]]:
    pairs = zip(rows["output_tokens_per_s_per_user"], rows["limit_bound"], strict=True)
    return [["–" if pd.isna(pace) else f"{pace:.3g}", "–" if pd.isna(bound) else str(bound)] for pace, bound in pairs]
