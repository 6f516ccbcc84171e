"""The frontier of each sweep: output tokens per second against those that one user sees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenwatt.analysis.frontier import MIN_POINTS, Estimate, Frontier, FrontierPoint
from tokenwatt.report.chart import PALETTE, PANEL_HEIGHT_PX, escaped, plain_layout
from tokenwatt.report.tables import NOTHING, number
from tokenwatt.units import format_si

_HOVER = "%{fullData.name}<br>%{text}<br>%{y:,.4~g} token/s<br>%{x:.4~g} token/s per user<extra></extra>"
_ENERGY_HOVER = "%{fullData.name}<br>%{text}<br>%{y:.3~g} J/token<br>%{x:.4~g} token/s per user<extra></extra>"


def frontier_figure(frontiers: Sequence[Frontier]) -> dict[str, Any] | None:
    """Plotly figure as plain JSON values, with a second panel where there is energy; None without a sweep."""
    from plotly.subplots import make_subplots

    if not frontiers:
        return None
    has_energy = any(point.joules is not None for each in frontiers for point in each.points)
    titles = [f"Output tokens {unit(frontiers)}"] + (["Board joules per output token"] if has_energy else [])
    figure = make_subplots(rows=1, cols=len(titles), subplot_titles=titles, horizontal_spacing=0.09)
    for position, each in enumerate(frontiers):
        colour = PALETTE[position % len(PALETTE)]
        figure.add_trace(_points(each, [point.speed for point in each.points], colour, _HOVER), row=1, col=1)
        figure.add_trace(_edge(each, colour), row=1, col=1)
        metered = [point for point in each.points if point.joules is not None]
        if metered:
            energy = Frontier(each.name, each.is_per_gpu, tuple(metered))
            joules = [point.joules for point in metered if point.joules is not None]
            trace = _points(energy, joules, colour, _ENERGY_HOVER)
            trace.showlegend = False
            figure.add_trace(trace, row=1, col=2)
    figure.update_xaxes(title="output tokens per second that one user sees", type="log")
    figure.update_yaxes(type="log", tickformat="~s")
    figure.update_layout(**plain_layout(), showlegend=True)
    figure.update_layout(height=PANEL_HEIGHT_PX + 20 * len(frontiers))
    return json.loads(str(figure.to_json()))


def unit(frontiers: Sequence[Frontier]) -> str:
    """What speeds are counted per."""
    kinds = {each.is_per_gpu for each in frontiers}
    if kinds == {True, False}:
        return "per second, per GPU where there is one"
    return "per second and GPU" if True in kinds else "per second"


def frontier_rows(frontiers: Sequence[Frontier]) -> list[dict[str, Any]]:
    """The same as text: a row per point, under the name of its sweep."""
    return [
        {
            "name": each.name,
            "note": "" if each.is_whole else f"{len(each.points)} of the {MIN_POINTS} points that a frontier needs",
            "points": [_row(point) for point in each.points],
        }
        for each in frontiers
    ]


def _row(point: FrontierPoint) -> dict[str, str]:
    return {
        "load": point.label,
        "pace": number(point.pace.mean),
        "speed": number(point.speed.mean),
        "joules": NOTHING if point.joules is None else format_si(point.joules.mean, "J"),
        "place": "on the frontier" if point.is_best else "beaten",
    }


def _points(frontier: Frontier, values: Sequence[Estimate], colour: str, hover: str) -> Any:
    """Markers with intervals both ways, hollow where another point is as good in both."""
    import plotly.graph_objects as go

    paces = [point.pace for point in frontier.points]
    return go.Scatter(
        x=[pace.mean for pace in paces],
        y=[value.mean for value in values],
        error_x=_bars(paces),
        error_y=_bars(values),
        text=[point.label for point in frontier.points],
        name=escaped(frontier.name),
        legendgroup=frontier.name,
        mode="markers",
        marker={
            "size": 8,
            "color": colour,
            "symbol": ["circle" if point.is_best else "circle-open" for point in frontier.points],
        },
        hovertemplate=hover,
    )


def _edge(frontier: Frontier, colour: str) -> Any:
    """The line through the points that are not beaten."""
    import plotly.graph_objects as go

    best = [point for point in frontier.points if point.is_best]
    return go.Scatter(
        x=[point.pace.mean for point in best],
        y=[point.speed.mean for point in best],
        legendgroup=frontier.name,
        showlegend=False,
        mode="lines",
        line={"color": colour, "width": 2},
        hoverinfo="skip",
    )


def _bars(values: Sequence[Estimate]) -> dict[str, Any]:
    above = [0.0 if value.high is None else value.high - value.mean for value in values]
    below = [0.0 if value.low is None else value.mean - value.low for value in values]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "width": 3, "thickness": 1}
