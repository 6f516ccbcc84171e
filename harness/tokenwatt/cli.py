"""The command line. It reads what people typed, calls one room of the house, and prints; nothing is computed here.

Exit codes: 0 good, 1 a run failed, 2 the input is wrong, 130 interrupted. Heavy imports wait inside the commands.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from tokenwatt import __version__
from tokenwatt.errors import TokenwattError, UserError

if TYPE_CHECKING:
    from tokenwatt.economics.scenario import FleetStudy
    from tokenwatt.record import Measurement

app = typer.Typer(
    name="tokenwatt",
    help="What a token costs, in joules and dollars, on the GPU you have and on a gigawatt of GPUs you do not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(no_args_is_help=True, help="What the results mean.")
app.add_typer(data_app, name="data")
bench_kernels = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

INTERRUPTED = 130
# typer brings its own click, whose UsageError it does not export; every wrong command line is one of those.
UsageError = typer.BadParameter.__mro__[1]

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of tables.")]
Results = Annotated[Path, typer.Option("--results", help="Folder that holds one folder per run.")]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"tokenwatt {__version__}")
        raise typer.Exit


@app.command()
def doctor(
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Measure virtual GPUs of known energy, healthy and faulty, instead.")
    ] = False,
    script: Annotated[
        Path | None,
        typer.Option(
            "--script",
            help="With --simulate: measure the GPUs of this script alone, from 12.5 to 32.5 s of it. How to write one "
            "is said in tokenwatt/power/virtual/virtual_nvml.h.",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials",
            min=1,
            help="With --simulate: so many seeded GPUs instead, and how often an interval holds the truth.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what is here, what is missing, and what to do about it."""
    from tokenwatt import doctor as room
    from tokenwatt.terminal import outcomes_as_json, print_coverage, print_findings, print_outcomes

    if (script is not None or trials is not None) and not simulate:
        raise UserError("--script and --trials say what to simulate, and nothing is simulated; add --simulate")
    if script is not None and trials is not None:
        raise UserError("--trials has machines of its own and takes no --script; give one of the two")
    if trials is not None:
        experiments = room.coverage(trials)
        if as_json:
            typer.echo(json.dumps([asdict(experiment) for experiment in experiments], indent=2))
        else:
            print_coverage(experiments)
        return
    if simulate:
        outcomes = room.simulate(script)
        if as_json:
            typer.echo(json.dumps(outcomes_as_json(outcomes), indent=2))
        else:
            print_outcomes(outcomes)
        raise typer.Exit(0 if all(outcome.is_right for outcome in outcomes) else 1)
    findings = room.examine()
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print_findings(findings)


@app.command()
def bench(
    suites: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SUITE]...", help="Names under workloads/suites/, or TOML files. Default: gpu or cpu."),
    ] = None,
    results: Results = Path("results/raw"),
    as_json: Json = False,
) -> None:
    """Run suites: warm up, find the steady window, meter it, write parquet, print a table."""
    from tokenwatt import bench as room
    from tokenwatt import doctor as examiner
    from tokenwatt.spec import SuiteSpec, load_toml
    from tokenwatt.terminal import TerminalObserver, print_measurements, rows_as_json
    from tokenwatt.workloads import find_toml, library_folder

    names = suites or [examiner.default_suite()]
    if not suites:
        typer.echo(f"suite {names[0]!r}: {examiner.why_default(names[0])}", err=True)
    specs = [load_toml(find_toml(name, library_folder() / "suites", "suite"), SuiteSpec) for name in names]
    measurements: list[Measurement] = []
    for spec in specs:
        with TerminalObserver() as observer:
            run = room.run_suite(spec, results, observer)
        measurements += run.measurements
        if not as_json:
            print_measurements(run.measurements, title=f"{spec.name}: {run.folder}")
    if as_json:
        typer.echo(json.dumps(rows_as_json(measurements), indent=2))
    if any(row.status != "ok" or row.energy_status == "invalid" for row in measurements):
        raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def kernels(
    context: typer.Context,
    action: Annotated[
        str,
        typer.Argument(
            metavar="check|compile|bench|tune|work",
            help="Gate, compile report, times and joules, tiles for this GPU, or least times.",
        ),
    ],
) -> None:
    """Check the Triton kernels, compile them for every target, time and meter them, or find this GPU's fastest tiles.

    Further arguments are passed on: kernel families, --dtype, --json; `python -m tokenwatt_kernels ACTION --help` lists
    them, and for bench there is --results. All but bench run in a process of their own: they need no harness.
    """
    if action == "bench":
        raise typer.Exit(bench_kernels(context.args, prog_name="tokenwatt kernels bench", standalone_mode=False) or 0)
    roots = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-m", "tokenwatt_kernels", action, *context.args]
    raise typer.Exit(subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": roots}).returncode)  # noqa: S603


@bench_kernels.command()
def _bench_kernels(
    families: Annotated[list[str] | None, typer.Argument(metavar="[FAMILY]...", help="Default: all.")] = None,
    dtypes: Annotated[list[str] | None, typer.Option("--dtype", help="May be given several times.")] = None,
    results: Results = Path("results/raw"),
    as_json: Json = False,
) -> None:
    """Pass the gate, time every kernel beside its baselines, meter a loop of each, write parquet, print tables."""
    from tokenwatt import kernel_bench as room
    from tokenwatt.terminal import TerminalObserver, kernel_rows_as_json, print_kernels

    with TerminalObserver() as observer:
        run = room.run_contests(families or (), dtypes or (), results, observer)
    if as_json:
        typer.echo(json.dumps(kernel_rows_as_json(run.timings), indent=2))
    else:
        print_kernels(run.timings)
        typer.echo(f"written to {run.folder}", err=True)
    if any(row.status == "disagrees" or row.energy_status == "invalid" for row in run.timings):
        raise typer.Exit(1)


@app.command()
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


@app.command()
def report(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="[RUN]...", help="Run folders or parquet files.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path("results/report.html"),
    results: Results = Path("results/raw"),
    scenario: Annotated[str, typer.Option("--scenario", help="Fleet scenario, or a TOML file.")] = "one-gigawatt",
) -> None:
    """Write one self-contained HTML page: measurements, chart, fleet table, sources. It opens offline."""
    import pandas as pd

    from tokenwatt import store
    from tokenwatt.record import Measurement
    from tokenwatt.report import html

    measurements = pd.concat([store.read(path, Measurement) for path in runs or [results]], ignore_index=True)
    html.render(measurements, _study(scenario, None, results), output)
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


@data_app.command()
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


def main() -> None:
    """Entry point: every wrong input ends as one line on stderr and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _fail(str(error), 2)
    except TokenwattError as error:
        _fail(str(error), 1)
    except UsageError as error:
        if not str(error):  # no arguments: the help has been printed
            sys.exit(2)
        _fail(str(error).rstrip("."), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        _fail("interrupted; finished measurements are kept", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"tokenwatt: {' '.join(message.split())}", err=True)
    sys.exit(code)
