"""Commands of the study wing, which read what was measured: fleet, report, data dictionary, published studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenwatt.cli.shared import Json, Results
from tokenwatt.errors import UserError

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


def import_results(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Result files of other tools.")],
    folder: Annotated[Path, typer.Option("--output", "-o", help="Folder that gets one folder for each file.")] = Path(
        "results/raw"
    ),
    form: Annotated[
        str | None,
        typer.Option("--as", metavar="FORMAT", help="Format of the files, where their content leaves a doubt."),
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", metavar="NAME", help="GPU, where a file does not say.")] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", min=1, help="How many, where a file does not say.")] = None,
    price: Annotated[
        float | None, typer.Option("--price", metavar="USD", min=0.0, help="Price of a GPU for an hour.")
    ] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="What answered, where a file does not say.")] = None,
) -> None:
    """Make rows of other tools' results: vllm-bench, aiperf, guidellm, inferencex, mlenergy. What is lost is said."""
    from tokenwatt import imports

    given = imports.Given(gpu_name=gpu, gpu_count=gpus, usd_per_gpu_h=price, engine=engine)
    read = [imports.read(file, form, given) for file in files]
    for file, imported in zip(files, read, strict=True):
        for line in imports.summary(imported, str(file)):
            typer.echo(line)
    for run in imports.write(read, folder):
        typer.echo(f"written to {run}", err=True)


def publish(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study, which is that of its folder.")],
    runs: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="RUN", help="Folder of a run, or of several; may be given several times."),
    ] = None,
    published: Annotated[Path, typer.Option("--published", help="Folder of studies.")] = Path("results/published"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 where the folder alone gives other bytes.")
    ] = False,
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", help="Write what it says of each kernel family into this page."),
    ] = None,
    tiles: Annotated[
        Path | None, typer.Option("--tiles", help="Table of tuned tiles. Default: that of the GPU in this tree.")
    ] = None,
    measured_by: Annotated[str | None, typer.Option("--by", help="Who measured.")] = None,
    commit: Annotated[
        str | None, typer.Option("--commit", help="Commit that was measured, for rows of a tree without git.")
    ] = None,
    allow_mixed_gpus: Annotated[
        bool, typer.Option("--allow-mixed-gpus", help="Let boards of several names in.")
    ] = False,
    allow_unfinished: Annotated[
        bool, typer.Option("--allow-unfinished", help="Let runs in that were cut short.")
    ] = False,
) -> None:
    """Collect runs into results/published/STUDY with hashes and a page; without --from, write that page anew."""
    from tokenwatt import publish as room

    asked = (tiles, measured_by, commit, allow_mixed_gpus or None, allow_unfinished or None)
    if not runs and any(option is not None for option in asked):
        raise UserError("--tiles, --by, --commit and --allow-... say how runs are collected; add --from RUN")
    if sum((check, bool(runs), markdown is not None)) > 1:
        raise UserError("--from, --check and --markdown are three commands; give one of them at a time")
    if check:
        found = room.differences(study, published)
        for line in found:
            typer.echo(line, err=True)
        raise typer.Exit(1 if found else 0)
    if runs:
        who = measured_by or room.SOMEBODY
        choice = room.Choice(tuple(runs), tiles, allow_mixed_gpus, allow_unfinished, who, commit)
        typer.echo(f"written to {room.publish(study, choice, published)}", err=True)
    elif markdown is not None:
        room.write_kernel_part(study, published, markdown)
        typer.echo(f"written to {markdown}", err=True)
    else:
        typer.echo(f"written to {room.rewrite(study, published)}", err=True)
