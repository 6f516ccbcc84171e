"""The report's energy charts: joules with intervals, closure bars, power-cap frontiers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from tokenwatt.analysis.points import ASKED, groups, names
from tokenwatt.analysis.power_caps import CapFrontier, CapPoint, Estimate
from tokenwatt.report.chart import PALETTE, SYMBOLS, escaped, outside_sweeps, plain_layout, value_axis
from tokenwatt.report.closure_table import TERMS
from tokenwatt.report.result_table import FIGURES

_LINE = tuple(column for column in ASKED if column not in ("phase", "concurrency"))
"""Points of one line of the energy chart agree in these."""
_ENERGIES = {
    place: figure
    for place, figure in enumerate(FIGURES)
    if figure.symbol and "marginal_joules_per_output_token" not in figure.quantities
}
TERM_COLOURS = dict(zip(TERMS, ("#888888", "#4477aa", "#ee6677", "#228833", "#c9a227", "#aa3377"), strict=True))
_LABEL_PX = 60
_BAR_PX = 34
_TICKS_PX = 30
_MARGIN_PX = 12
_AROUND_BARS_PX = 120


def energy_figure(figures: pd.DataFrame) -> dict[str, Any] | None:
    """Joules per token by concurrency with 95 % intervals, a panel per phase; None without one such result.

    `figures` are those of `result_table.result_figures`.
    """
    from plotly.subplots import make_subplots

    shown = [place for place in _ENERGIES if place in set(figures["figure"])]
    if not shown:
        return None
    rows = outside_sweeps(figures[figures["figure"].isin(shown) & (figures["load"] == "closed")])
    shown = [place for place in shown if place in set(rows["figure"])]
    if not shown:
        return None
    titles = [_ENERGIES[place].label for place in shown]
    figure = make_subplots(rows=1, cols=len(shown), subplot_titles=titles, horizontal_spacing=0.09)
    rows = rows.assign(name=names(rows.assign(concurrency=0, phase="")))
    for position, line in enumerate(groups(rows, _LINE)):
        drawn = [place for place in shown if place in set(line["figure"])]
        for place in drawn:
            trace = _energy_line(line[line["figure"] == place].sort_values("concurrency"), position, place == drawn[0])
            figure.add_trace(trace, row=1, col=shown.index(place) + 1)
    ticks = sorted({int(value) for value in rows["concurrency"]})
    figure.update_xaxes(type="log", title="requests in flight", tickvals=ticks, ticktext=[str(tick) for tick in ticks])
    for column, place in enumerate(shown, start=1):
        axis = value_axis(rows.loc[rows["figure"] == place, "mean"])
        figure.update_yaxes(**axis, tickformat="~s", ticksuffix="J", row=1, col=column)
    figure.update_layout(**plain_layout())
    return json.loads(str(figure.to_json()))


def _energy_line(rows: pd.DataFrame, position: int, shows_legend: bool) -> Any:
    import plotly.graph_objects as go

    name, colour = rows["name"].iloc[0], PALETTE[position % len(PALETTE)]
    return go.Scatter(
        x=rows["concurrency"].tolist(),
        y=rows["mean"].tolist(),
        error_y=_error_bars(rows["mean"].tolist(), rows["low"].tolist(), rows["high"].tolist()),
        name=escaped(name),
        legendgroup=name,
        showlegend=shows_legend,
        mode="lines+markers",
        marker={"size": 7, "symbol": SYMBOLS[position % len(SYMBOLS)]},
        line={"color": colour, "width": 1.5},
        customdata=rows["windows"].tolist(),
        hovertemplate="%{fullData.name}<br>%{x} in flight<br>%{y:.4~s}J<br>%{customdata} windows<extra></extra>",
    )


def _error_bars(means: list[float], lows: Sequence[float | None], highs: Sequence[float | None]) -> dict[str, Any]:
    """Plotly's arrays of distances; a point without an interval gets none."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [_distance(mean, high) for mean, high in zip(means, highs, strict=True)],
        "arrayminus": [_distance(mean, low) for mean, low in zip(means, lows, strict=True)],
        "width": 4,
        "thickness": 1.5,
    }


def _distance(mean: float, end: float | None) -> float:
    return 0.0 if end is None or pd.isna(end) else abs(end - mean)


def closure_figure(points: pd.DataFrame) -> dict[str, Any] | None:
    """Stacked bars of each point's energy by term; `points` are those of `closure_table.closure_points`."""
    import plotly.graph_objects as go

    if points["share"].isna().all():
        return None
    bars = list(dict.fromkeys(points["name"]))
    figure = go.Figure()
    for term in (term for term in TERMS if term in set(points["term"])):
        rows = points[points["term"] == term]
        figure.add_trace(
            go.Bar(
                y=[escaped(name) for name in rows["name"]],
                x=(rows["share"] * 100).tolist(),
                name=term,
                orientation="h",
                marker={
                    "color": TERM_COLOURS[term],
                    "pattern": {"shape": "/" if term == "rest" else ""},
                    "line": {"width": 0},
                },
                customdata=rows["energy_j"].tolist(),
                hovertemplate="%{y}<br>" + term + ": %{x:.1f} %, %{customdata:.3~s}J<extra></extra>",
            )
        )
    figure.update_layout(**plain_layout(), barmode="relative")
    bars_px = _BAR_PX * len(bars)
    figure.update_layout(height=_AROUND_BARS_PX + bars_px, legend={"y": -_TICKS_PX / bars_px, "traceorder": "normal"})
    figure.update_layout(margin={"t": _MARGIN_PX, "b": _AROUND_BARS_PX - _MARGIN_PX})
    figure.update_xaxes(ticksuffix=" %")
    figure.update_yaxes(autorange="reversed", automargin=True)
    return json.loads(str(figure.to_json()))


def cap_figure(found: Sequence[CapFrontier]) -> dict[str, Any] | None:
    """Tokens/s against tokens/J, a line per sweep from cap to cap, the best cap as a star."""
    import plotly.graph_objects as go

    if not found:
        return None
    figure = go.Figure()
    for position, frontier in enumerate(found):
        figure.add_trace(_cap_line(frontier, position))
        if frontier.best is not None:
            figure.add_trace(_best_mark(frontier, frontier.best, position))
    figure.update_xaxes(title="output tokens/s", tickformat="~s")
    figure.update_yaxes(title="output tokens per joule", tickformat=",.4~r", automargin=True)
    figure.update_layout(**plain_layout())
    figure.update_layout(margin={"r": _LABEL_PX})
    return json.loads(str(figure.to_json()))


def _cap_line(frontier: CapFrontier, position: int) -> Any:
    import plotly.graph_objects as go

    points = frontier.points
    colour, symbol = PALETTE[position % len(PALETTE)], SYMBOLS[position % len(SYMBOLS)]
    return go.Scatter(
        x=[point.tokens_per_s.mean for point in points],
        y=[point.tokens_per_j.mean for point in points],
        error_x=_estimate_bars([point.tokens_per_s for point in points]),
        error_y=_estimate_bars([point.tokens_per_j for point in points]),
        name=escaped(frontier.name),
        legendgroup=frontier.name,
        mode="lines+markers+text",
        text=[point.label for point in points],
        textposition="top right",
        cliponaxis=False,
        marker={"size": 8, "symbol": [symbol if point.is_pareto else f"{symbol}-open" for point in points]},
        line={"color": colour, "width": 1, "dash": "dot"},
        customdata=[point.windows for point in points],
        hovertemplate="%{text}<br>%{x:,.4~g} tokens/s<br>%{y:.4~g} tokens/J<br>%{customdata} windows<extra></extra>",
    )


def _best_mark(frontier: CapFrontier, best: CapPoint, position: int) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=[best.tokens_per_s.mean],
        y=[best.tokens_per_j.mean],
        name=f"best: {best.label}",
        legendgroup=frontier.name,
        mode="markers",
        marker={"size": 18, "symbol": "star-open", "color": PALETTE[position % len(PALETTE)], "line": {"width": 2}},
        hoverinfo="skip",
    )


def _estimate_bars(estimates: list[Estimate]) -> dict[str, Any]:
    return _error_bars(
        [each.mean for each in estimates], [each.low for each in estimates], [each.high for each in estimates]
    )
