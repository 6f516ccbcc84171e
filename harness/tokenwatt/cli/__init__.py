"""The command line. It reads what people typed, calls one room of the house, and prints; nothing is computed here.

Exit codes: 0 good, 1 a run failed, 2 the input is wrong, 128 + n ended by signal n (130: Ctrl-C, 143: SIGTERM); `meter`
has its command's. Heavy imports wait inside the commands.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tokenwatt import __version__
from tokenwatt.cli.kernel_actions import kernels
from tokenwatt.cli.measure import bench, doctor
from tokenwatt.cli.metering import meter
from tokenwatt.cli.predict import predict
from tokenwatt.cli.shared import INTERRUPTED, Orderly, UsageError, fail
from tokenwatt.cli.silicon import silicon
from tokenwatt.cli.study import fleet, import_results, publish, report, schema
from tokenwatt.errors import TokenwattError, UserError

app = typer.Typer(
    name="tokenwatt",
    cls=Orderly,
    help="What a token costs, in joules and dollars, on the GPU you have and on a gigawatt of GPUs you do not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(no_args_is_help=True, help="What the results mean.")
app.add_typer(data_app, name="data")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"tokenwatt {__version__}")
        raise typer.Exit


app.command()(doctor)
app.command()(bench)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(kernels)
app.command(context_settings={"allow_interspersed_args": False})(meter)
app.command()(fleet)
app.command()(predict)
app.command()(report)
app.command()(silicon)
data_app.command()(schema)
data_app.command()(publish)
data_app.command("import")(import_results)


def main() -> None:
    """Entry point: every wrong input ends as one line on stderr and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        fail(str(error), 2)
    except TokenwattError as error:
        fail(str(error), 1)
    except UsageError as error:
        if not str(error):  # no arguments: the help has been printed
            sys.exit(2)
        fail(error.format_message().rstrip("."), 2)
    if code == INTERRUPTED:  # of `kernels`, whose command line is one of its own
        fail("interrupted; finished measurements are kept", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)
