"""The command line. It reads what people typed, calls one room of the house, and prints; nothing is computed here.

Exit codes: 0 good, 1 a run failed, 2 the input is wrong, 128 + n ended by signal n (130: Ctrl-C, 143: SIGTERM); `meter`
has its command's. Heavy imports wait inside the commands.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from tokenwatt import __version__
from tokenwatt.errors import TokenwattError, UserError
from tokenwatt.orderly_end import Ended, ends_orderly, signal_of

if TYPE_CHECKING:
    from tokenwatt.bench.suite import OpenCaps
    from tokenwatt.economics.scenario import FleetStudy


class _Orderly(TyperGroup):
    """SIGTERM and SIGHUP end every command as Ctrl-C does: what it opened is closed, what it finished is kept."""

    def invoke(self, ctx: Any) -> Any:
        with ends_orderly():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt as interrupt:
                said = str(interrupt) or "interrupted"
                _fail(f"{said}; finished measurements are kept", SIGNALLED + signal_of(interrupt))


app = typer.Typer(
    name="tokenwatt",
    cls=_Orderly,
    help="What a token costs, in joules and dollars, on the GPU you have and on a gigawatt of GPUs you do not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(no_args_is_help=True, help="What the results mean.")
app.add_typer(data_app, name="data")
bench_kernels = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

INTERRUPTED = 130
SIGNALLED = 128
"""A shell reports a command that signal n ended as 128 + n."""
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
    is_comparison: Annotated[
        bool,
        typer.Option("--compare", help="Measure the two benches of each suite in turns, A B B A, and their ratio."),
    ] = False,
    power_caps: Annotated[
        str | None,
        typer.Option(metavar="WATTS", help="Measure each point at these power limits per GPU, such as 700,600,500."),
    ] = None,
    allow_power_limit: Annotated[
        bool, typer.Option("--allow-power-limit", help="Let --power-caps set limits; they are restored at the end.")
    ] = False,
) -> None:
    """Run suites: warm up, meter steady windows until they agree, write parquet, print a table."""
    from tokenwatt import bench as room
    from tokenwatt import doctor as examiner
    from tokenwatt import invocation
    from tokenwatt.spec import SuiteSpec, load_toml
    from tokenwatt.terminal import TerminalObserver, print_closure, print_measurements, rows_as_json
    from tokenwatt.workloads import find_toml, library_folder

    if is_comparison and (power_caps is not None or not suites):
        raise UserError("--compare needs the names of suites with two [[bench]], and takes no --power-caps")
    caps, open_caps = _power_caps(power_caps, allow_power_limit)
    names = suites or [examiner.default_suite()]
    if not suites:
        typer.echo(f"suite {names[0]!r}: {examiner.why_default(names[0])}", err=True)
    specs = [load_toml(find_toml(name, library_folder() / "suites", "suite"), SuiteSpec) for name in names]
    runs = []
    for spec in specs:
        with TerminalObserver() as observer:
            if is_comparison:
                run = room.compare_suite(spec, results, observer)
            else:
                run = room.run_suite(spec, results, observer, caps, open_caps)
        invocation.write(run.folder, sys.argv[1:])
        runs.append(run)
        if not as_json:
            print_measurements(run.measurements, f"{spec.name}: {run.folder}", run.results)
            print_closure(run.measurements, run.closure, run.remarks)
    if as_json:
        typer.echo(json.dumps(rows_as_json([row for run in runs for row in run.measurements]), indent=2))
    if any(run.has_failed for run in runs):
        raise typer.Exit(1)


def _power_caps(text: str | None, is_allowed: bool) -> tuple[tuple[float, ...], OpenCaps | None]:
    """Watts that were asked for, and what sets them.

    Raises:
        UserError: they cannot be read, or may not be set.
    """
    if text is None:
        return (), None
    from tokenwatt.power.caps import PowerCaps, parse_power_caps

    caps = parse_power_caps(text)
    if not is_allowed:
        watts = ", ".join(f"{cap:g}" for cap in caps)
        raise UserError(
            f"--power-caps would set the power limit of every GPU of the engine to {watts} W, one after the other, and "
            "restore it at the end; add --allow-power-limit to let it"
        )
    return caps, PowerCaps.open


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
    problems: Annotated[
        list[str] | None, typer.Option("--problem", metavar="NAME", help="May be given several times. Default: all.")
    ] = None,
    energy: Annotated[
        str,
        typer.Option(metavar="none|ours|all", help="Meter nobody, our kernel and the fastest baseline, or everybody."),
    ] = "all",
    budget_s: Annotated[
        float | None, typer.Option("--budget-s", min=1, help="Begin no problem after so many seconds.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that gate and compile.", show_default="all processors but one"),
    ] = None,
    results: Results = Path("results/raw"),
    as_json: Json = False,
) -> None:
    """Pass the gate, time every kernel beside its baselines, meter a loop of each, write parquet, print tables."""
    from tokenwatt import invocation
    from tokenwatt import kernel_bench as room
    from tokenwatt.terminal import TerminalObserver, kernel_rows_as_json, print_kernels

    choice = room.Choice(families or (), dtypes or (), problems or (), energy, budget_s, jobs)
    with TerminalObserver() as observer:
        run = room.run_contests(choice, results, observer)
    invocation.write(run.folder, sys.argv[1:])
    if as_json:
        typer.echo(json.dumps(kernel_rows_as_json(run.timings), indent=2))
    else:
        print_kernels(run.timings)
        typer.echo(f"written to {run.folder}", err=True)
    for family, problem, dtype_name in run.left:
        typer.echo(f"left, the time was up: {family} {problem.name} {dtype_name}", err=True)
    if any(row.status == "disagrees" or row.energy_status == "invalid" for row in run.timings):
        raise typer.Exit(1)


@app.command(context_settings={"allow_interspersed_args": False})
def meter(
    command: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND", help="What to run and meter.")] = None,
    attach: Annotated[
        str | None, typer.Option("--attach", metavar="URL", help="Meter around this running server instead.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="How long, with --attach.", show_default="30")
    ] = None,
    idle: Annotated[
        float | None,
        typer.Option("--idle", help="Seconds of idle power to read before a command; 0 skips it.", show_default="2"),
    ] = None,
    gpus: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu", metavar="UUID", help="May be given several times. Default: those of CUDA_VISIBLE_DEVICES."
        ),
    ] = None,
    gpu_meter: Annotated[
        str | None, typer.Option("--gpu-meter", help="Instead of NVML: dcgm:http://host:9400/metrics.")
    ] = None,
    node_meter: Annotated[
        str | None,
        typer.Option(
            "--node-meter", help="ipmi, redfish:https://bmc/redfish/v1/Chassis/1, or csv:rack.csv?timezone=..."
        ),
    ] = None,
    results: Results = Path("results/raw"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the row as JSON to this file.")] = None,
) -> None:
    """Meter any command, or the server at a URL: energy, mean and peak power, verdict. The table goes to stderr.

    A command keeps its streams, its terminal and its exit code; Ctrl-C and SIGTERM go to it. Around a server they end
    the window early, and its numbers are kept.
    """
    from tokenwatt import metering as room
    from tokenwatt import store
    from tokenwatt.record import EnergyStatus, Status
    from tokenwatt.terminal import metered_rows_as_json, print_metered

    if bool(command) == (attach is not None):
        raise UserError("meter needs either a command, as in `tokenwatt meter -- sleep 5`, or --attach URL")
    if attach is None and seconds is not None:
        raise UserError("--seconds goes with --attach; a command is metered until it ends")
    if attach is not None and idle is not None:
        raise UserError("--idle goes with a command; around a running server no board is idle")
    choice = room.Choice(tuple(gpus or ()), gpu_meter, node_meter, 2.0 if idle is None else idle)
    if json_file is not None:
        store.check_place(json_file, "--json")
    try:
        if attach is None:
            metered = room.meter_command(command or (), choice, results)
        else:
            metered = room.meter_server(attach, 30.0 if seconds is None else seconds, choice, results)
    except Ended as ended:
        _fail(f"{ended}; nothing was metered", SIGNALLED + ended.number)
    row = metered.row
    print_metered(row)
    typer.echo(f"written to {metered.folder}", err=True)
    if json_file is not None:
        text = json.dumps(metered_rows_as_json([row])[0], indent=2) + "\n"
        store.write_whole(json_file, lambda file: file.write(text.encode()))
    # Not by typer.Exit, as which an interrupt of our own comes too: 130 may be the command's, and is passed on unsaid.
    if row.exit_code is not None:
        sys.exit(row.exit_code if row.exit_code >= 0 else SIGNALLED - row.exit_code)
    if metered.ended_by is not None:
        sys.exit(SIGNALLED + metered.ended_by)
    if row.status is not Status.OK or row.energy_status is EnergyStatus.INVALID:
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


@data_app.command()
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
        _fail(error.format_message().rstrip("."), 2)
    if code == INTERRUPTED:  # of `kernels`, whose command line is one of its own
        _fail("interrupted; finished measurements are kept", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"tokenwatt: {' '.join(message.split())}", err=True)
    sys.exit(code)
