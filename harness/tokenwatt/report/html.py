"""Writes the report: one HTML file that opens offline and loads nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from tokenwatt import __version__, store
from tokenwatt.economics.scenario import FleetStudy
from tokenwatt.errors import UserError
from tokenwatt.perf_model.limits import add_limits
from tokenwatt.report.tables import environments, fleet_table, grades, measurement_rows, run_ids
from tokenwatt.units import format_si

if TYPE_CHECKING:
    import jinja2

TEMPLATE = "report.html.j2"


def render(measurements: pd.DataFrame, study: FleetStudy | None, out_path: Path) -> Path:
    """Write the report on `measurements` (as `store.read` returns them) and a fleet study to `out_path`, in one step.

    Raises:
        UserError: plotly or jinja2 is missing, or the file cannot be written.
    """
    page = page_text(measurements, study)
    return store.write_whole(out_path, lambda file: file.write(page.encode()))


def page_text(measurements: pd.DataFrame, study: FleetStudy | None) -> str:
    """The report as HTML text.

    Raises:
        UserError: plotly or jinja2 is missing.
    """
    template = _template()
    from plotly.offline import get_plotlyjs

    from tokenwatt.report.chart import throughput_figure

    limited = add_limits(measurements)
    figure = throughput_figure(limited)
    return template.render(
        version=__version__,
        written_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        run_ids=run_ids(limited),
        environments=environments(limited),
        rows=measurement_rows(limited),
        figure=figure,
        plotly_js=get_plotlyjs() if figure else "",
        study=study,
        format_si=format_si,
        fleet=fleet_table(study) if study else [],
        grades=grades(study.facts) if study else [],
    )


def _template() -> jinja2.Template:
    try:
        import jinja2
        import plotly  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"the report needs {error.name}: pip install 'tokenwatt[report]'") from None
    text = (files("tokenwatt.report") / TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)
