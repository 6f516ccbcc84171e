"""The command of the kernels, and its bench, which alone needs the harness."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from tokenwatt.cli.shared import Json, Results

bench_kernels = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
"""A command line of its own: that of `kernels` passes on what it does not know."""


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
    compiled: Annotated[bool, typer.Option(help="Baselines by torch.compile too: ten seconds each to make.")] = True,
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

    choice = room.Choice(families or (), dtypes or (), problems or (), energy, budget_s, jobs, compiled)
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
