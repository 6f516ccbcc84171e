"""What every command shares: the application, its exit codes, options that several take, and how it fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from tokenwatt.orderly_end import ends_orderly, signal_of

INTERRUPTED = 130
"""A command of its own process says so that Ctrl-C ended it."""
SIGNALLED = 128
"""A shell reports a command that signal n ended as 128 + n."""
# typer brings its own click, whose UsageError it does not export; every wrong command line is one of those.
UsageError = typer.BadParameter.__mro__[1]

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of tables.")]
Results = Annotated[Path, typer.Option("--results", help="Folder that holds one folder per run.")]


def fail(message: str, code: int) -> NoReturn:
    """One line on stderr, then the end."""
    typer.echo(f"tokenwatt: {' '.join(message.split())}", err=True)
    sys.exit(code)


class Orderly(TyperGroup):
    """SIGTERM and SIGHUP end every command as Ctrl-C does: what it opened is closed, what it finished is kept."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with ends_orderly():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt as interrupt:
                said = str(interrupt) or "interrupted"
                fail(f"{said}; finished measurements are kept", SIGNALLED + signal_of(interrupt))
