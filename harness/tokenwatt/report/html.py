"""Writes the report: one HTML file that opens offline and loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenwatt import __version__, store
from tokenwatt.analysis.frontier import frontiers as load_frontiers
from tokenwatt.analysis.power_caps import frontiers
from tokenwatt.economics.scenario import FleetStudy
from tokenwatt.errors import UserError
from tokenwatt.perf_model.limits import add_limits
from tokenwatt.report.cap_table import cap_sections
from tokenwatt.report.closure_table import TERMS, closure_points, closure_rows
from tokenwatt.report.comparison_table import comparison_rows, variants
from tokenwatt.report.frontier_chart import frontier_figure, frontier_rows, unit
from tokenwatt.report.imported_table import imported_tools
from tokenwatt.report.latency_table import WORDS, latency_rows
from tokenwatt.report.reasons import meanings
from tokenwatt.report.result_table import FIGURES, result_figures, result_rows
from tokenwatt.report.run_tables import RunTables
from tokenwatt.report.tables import environments, fleet_table, grades, measurement_rows, run_ids
from tokenwatt.report.verdict_table import verdict_rows, verdict_summary
from tokenwatt.units import format_si

if TYPE_CHECKING:
    import jinja2

TEMPLATE = "report.html.j2"


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure and the element of the page that it is drawn in."""

    id: str
    """Id of the element."""
    figure: dict[str, Any]
    """Plotly figure as plain JSON values."""


def render(tables: RunTables, study: FleetStudy | None, out_path: Path) -> Path:
    """Write the report on runs and a fleet study to `out_path`, in one step.

    Raises:
        UserError: plotly or jinja2 is missing, or the file cannot be written.
    """
    page = page_text(tables, study)
    return store.write_whole(out_path, lambda file: file.write(page.encode()))


def page_text(tables: RunTables, study: FleetStudy | None) -> str:
    """The report as HTML text.

    Raises:
        UserError: plotly or jinja2 is missing.
    """
    template = _template()
    from plotly.offline import get_plotlyjs

    from tokenwatt.report.chart import throughput_figure

    limited = add_limits(tables.measurements)
    energy = _energy(tables)
    load = _load(tables)
    charts = [*_drawn({"chart": throughput_figure(limited)}), *load["charts"], *energy["charts"]]
    return template.render(
        version=__version__,
        written_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        run_ids=run_ids(limited),
        environments=environments(limited),
        rows=measurement_rows(limited),
        imported=imported_tools(limited),
        any_ok=bool((limited["status"] == "ok").any()),
        load=load,
        energy=energy,
        chart_ids=[chart.id for chart in charts],
        figures=[{"id": chart.id, "figure": chart.figure} for chart in charts],
        reasons=meanings(_reasons(tables)),
        plotly_js=get_plotlyjs() if charts else "",
        study=study,
        format_si=format_si,
        fleet=fleet_table(study) if study else [],
        grades=grades(study.facts) if study else [],
    )


def _load(tables: RunTables) -> dict[str, Any]:
    """What the sections on load show; a part without data is empty."""
    found = load_frontiers(tables.measurements, tables.results)
    return {
        "charts": _drawn({"frontier-chart": frontier_figure(found)}),
        "frontiers": frontier_rows(found),
        "unit": unit(found),
        "latencies": latency_rows(tables.measurements),
        "words": [word.replace("_", ".") for word in WORDS],
    }


def _energy(tables: RunTables) -> dict[str, Any]:
    """What the energy sections show; a part without data is empty."""
    from tokenwatt.report.energy_charts import cap_figure, closure_figure, energy_figure
    from tokenwatt.report.trace_chart import trace_figures

    measurements = tables.measurements
    figures = result_figures(measurements, tables.results)
    closure = closure_points(measurements, tables.closure)
    sweeps = frontiers(measurements, tables.results)
    verdicts = verdict_rows(measurements)
    traces = trace_figures(measurements, tables.power)
    drawn = {
        "energy-chart": energy_figure(figures),
        "cap-chart": cap_figure(sweeps),
        "closure-chart": closure_figure(closure),
        **{f"trace-{index}": figure for index, (_, figure) in enumerate(traces)},
    }
    return {
        "charts": _drawn(drawn),
        "labels": [figure.label for figure in FIGURES],
        "results": result_rows(figures),
        "comparisons": comparison_rows(tables.results),
        "variants": variants(measurements),
        "sweeps": cap_sections(sweeps),
        "terms": TERMS,
        "closure": closure_rows(closure),
        "traces": [name for name, _ in traces],
        "verdicts": verdicts,
        "verdict_summary": verdict_summary(verdicts),
    }


def _drawn(figures: Mapping[str, dict[str, Any] | None]) -> list[Chart]:
    return [Chart(name, figure) for name, figure in figures.items() if figure is not None]


def _reasons(tables: RunTables) -> set[str]:
    """Every reason that a row names."""
    columns = ("reasons", "energy_reasons", "node_energy_reasons")
    return {reason for column in columns for cell in tables.measurements[column] for reason in cell}


def _template() -> jinja2.Template:
    try:
        import jinja2
        import plotly  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"the report needs {error.name}: pip install 'tokenwatt[report]'") from None
    folder = files("tokenwatt.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)
