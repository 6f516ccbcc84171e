"""Writes the report: one HTML file that opens offline and loads nothing."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from tokenwatt import __version__
from tokenwatt.economics.scenario import FleetStudy
from tokenwatt.errors import UserError
from tokenwatt.perf_model.limits import add_limits
from tokenwatt.report.tables import environments, fleet_table, grades, measurement_rows, run_ids

if TYPE_CHECKING:
    import jinja2

TEMPLATE = "report.html.j2"


def render(measurements: pd.DataFrame, study: FleetStudy | None, out_path: Path) -> Path:
    """Write the report on `measurements` (as `store.read` returns them) and a fleet study to `out_path`, in one step.

    Raises:
        UserError: plotly or jinja2 is missing, or the file cannot be written.
    """
    page = page_text(measurements, study)
    part: Path | None = None
    try:
        out_path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=out_path.parent, prefix=f"{out_path.name}.", suffix=".part", delete=False
        ) as file:
            part = Path(file.name)
            file.write(page)
        part.chmod(0o644)
        part.replace(out_path)
        part = None
    except OSError as error:
        raise UserError(f"{out_path}: cannot write the report there ({error.strerror or error})") from None
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return out_path


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
