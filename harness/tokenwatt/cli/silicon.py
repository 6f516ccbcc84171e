"""The command of the pass over a real GPU, and how its rehearsal reads the command lines of the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenwatt.cli.kernel_actions import bench_kernels
from tokenwatt.cli.shared import UsageError
from tokenwatt.errors import UserError

if TYPE_CHECKING:
    from tokenwatt.silicon.step import Step


def silicon(
    context: typer.Context,
    is_list: Annotated[bool, typer.Option("--list", help="Print the steps and how they stand; run nothing.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="STEP", help="A step or a group, with what it needs; may be given several times."
        ),
    ] = None,
    redo: Annotated[bool, typer.Option("--redo", help="Take steps again that are done.")] = False,
    dry: Annotated[
        bool, typer.Option("--dry", help="Rehearse on a processor: check every command, and run it with tiny problems.")
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", help="Folder of results: runs go to raw/, state and logs to silicon/.")
    ] = Path("results"),
) -> None:
    """Take every step of the pass over a GPU that is not done yet: tests, gate, timings, tuning, energy of tokens.

    A step has eight minutes at most. Its output is kept in silicon/STEP.log, and how it ended in silicon/steps.json;
    one that is done for this tree, torch, triton and GPU is not taken again.
    """
    from tokenwatt.silicon.passing import Pass
    from tokenwatt.silicon.place import place_of, tree_root
    from tokenwatt.silicon.state import State
    from tokenwatt.silicon.step import chosen, with_needs
    from tokenwatt.silicon.table import compile_step, steps_of
    from tokenwatt.terminal import PassPrinter, print_step_list, print_steps

    root, output = tree_root(), output.resolve()
    folder = output / "silicon" / "dry" if dry else output / "silicon"
    results = folder / "raw" if dry else output / "raw"
    steps = [compile_step(), *steps_of(results)] if dry else steps_of(results)
    named, state = chosen(steps, only or ()), State(folder)
    if is_list:
        print_step_list(named, state.records)
        return
    taken = with_needs(steps, named)

    def check(step: Step) -> str:
        return checked_command(context, step)

    one = Pass(root, place_of(root), state, results, PassPrinter(dry), check if dry else None)
    try:
        is_good = one.run(taken, {step.name for step in named} if redo else ())
    finally:
        print_steps(taken, state.records)
    raise typer.Exit(0 if is_good else 1)


def checked_command(context: typer.Context, step: Step) -> str:
    """Read a step's real command line as its program would, and its suite; says what the suite will take.

    Raises:
        UserError: something in it is wrong.
    """
    from tokenwatt.silicon import suites

    _, program, *arguments = step.command
    if program == "tokenwatt":
        _read(context, arguments)
    elif program == "tokenwatt_kernels":
        _read_kernels(arguments)
    # pytest has no reader apart from running: its rehearsal collects with the same arguments.
    return str(suites.check(step)) if step.suite is not None else ""


def _read(context: typer.Context, arguments: Sequence[str]) -> None:
    root: Any = context.find_root()
    group = root.command
    name, *rest = arguments
    if [name, *rest[:1]] == ["kernels", "bench"]:
        asked = _read_one(typer.main.get_command(bench_kernels), "kernels bench", rest[1:], root)
        _choose(asked["families"], asked["dtypes"], asked["problems"], asked["energy"])
        return
    command = group.get_command(root, name)
    if command is None:
        raise UserError(f"tokenwatt has no command {name!r}")
    _read_one(command, name, rest, root)


def _read_one(command: Any, name: str, arguments: Sequence[str], root: Any) -> dict[str, Any]:
    """The parameters of a command, by name."""
    try:
        return command.make_context(name, list(arguments), parent=root).params
    except UsageError as error:
        raise UserError(f"tokenwatt {name}: {error.format_message()}") from None


def _read_kernels(arguments: Sequence[str]) -> None:
    from tokenwatt_kernels.__main__ import parser

    try:
        options = parser().parse_args(arguments)
    except SystemExit:  # argparse has said why
        raise UserError(f"tokenwatt_kernels does not take: {' '.join(arguments)}") from None
    _choose(options.families, options.dtype, options.problem)


def _choose(
    families: Sequence[str] | None, dtypes: Sequence[str] | None, problems: Sequence[str] | None, energy: str = "all"
) -> None:
    """Look the named families, dtypes and problems up."""
    from tokenwatt.kernel_bench import Choice

    Choice(families or (), dtypes or (), problems or (), energy).entries()
