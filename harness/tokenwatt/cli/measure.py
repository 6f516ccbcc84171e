"""Commands that look at this machine and measure an engine on it: doctor, bench."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenwatt.cli.shared import Json, Results
from tokenwatt.errors import UserError

if TYPE_CHECKING:
    from tokenwatt.bench.suite import OpenCaps


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
    ceilings: Annotated[
        str | None,
        typer.Option(
            "--ceilings", metavar="cuda|cpu", help="Measure what this device can do at best, and power at rest."
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
    if ceilings is not None and simulate:
        raise UserError("--ceilings measures this machine, and --simulate a virtual one; give one of the two")
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
    findings = room.examine() if ceilings is None else room.ceilings(ceilings)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print_findings(findings)


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
    finds_max_rate: Annotated[
        bool,
        typer.Option(
            "--find-max-rate", help="Search, from each bench's one rate, for the largest that keeps its service level."
        ),
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
    if finds_max_rate and (is_comparison or not suites):
        raise UserError("--find-max-rate needs the names of suites with a rate and a [bench.slo], and no --compare")
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
                run = room.run_suite(spec, results, observer, caps, open_caps, finds_max_rate)
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
