"""Commands of the study wing, which read what was measured: fleet, report, and the data dictionary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenwatt.cli.shared import Json, Results

if TYPE_CHECKING:
    from tokenwatt.economics.scenario import FleetStudy


def fleet(
    scenario: Annotated[
        str, typer.Argument(metavar="[SCENARIO]", help="Scenario name, or a TOML file.")
    ] = "one-gigawatt",
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", help="Start from this published row, or measurement_id, instead of the scenario's."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Parquet file to write.")] = Path(
        "results/fleet.parquet"
    ),
    results: Results = Path("results/raw"),
    as_json: Json = False,
) -> None:
    """Carry a Hopper row to a gigawatt of newer systems: tokens, watts and dollars, low to high, with sources."""
    from tokenwatt import store
    from tokenwatt.economics.scenario import to_json
    from tokenwatt.record import FleetEstimate
    from tokenwatt.terminal import print_fleet

    study = _study(scenario, reference, results)
    store.write_table(store.to_table(study.estimates, FleetEstimate), output)
    if as_json:
        typer.echo(json.dumps(to_json(study), indent=2))
    else:
        print_fleet(study)
        typer.echo(f"written to {output}", err=True)


def report(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="[RUN]...", help="Run folders or parquet files.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path("results/report.html"),
    results: Results = Path("results/raw"),
    scenario: Annotated[str, typer.Option("--scenario", help="Fleet scenario, or a TOML file.")] = "one-gigawatt",
) -> None:
    """Write one self-contained HTML page: measurements, energy with its verdicts, fleet, sources. It opens offline."""
    from tokenwatt.report import html
    from tokenwatt.report.run_tables import RunTables

    html.render(RunTables.read(runs or [results]), _study(scenario, None, results), output)
    typer.echo(f"written to {output}", err=True)


def _study(scenario: str, reference: str | None, results: Path) -> FleetStudy:
    """Work out a scenario; a reference with a slash is the measurement_id of a row under `results`."""
    from tokenwatt import store
    from tokenwatt.economics.scenario import load_scenario, run_scenario
    from tokenwatt.record import Measurement

    loaded = load_scenario(scenario)
    if reference is not None:
        loaded = loaded.model_copy(update={"reference": reference})
    measurements = store.read(results, Measurement) if "/" in loaded.reference else None
    return run_scenario(loaded, measurements)


def schema(
    write: Annotated[Path | None, typer.Option("--write", help="Write the page to this file instead.")] = None,
) -> None:
    """Print the data dictionary: every table, column, type, unit and meaning."""
    from tokenwatt import store

    text = store.data_dictionary()
    if write is None:
        typer.echo(text, nl=False)
    else:
        store.write_whole(write, lambda file: file.write(text.encode()))
