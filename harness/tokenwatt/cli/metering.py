"""The command that meters any command, or a running server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tokenwatt.cli.shared import SIGNALLED, Results, fail
from tokenwatt.errors import UserError
from tokenwatt.orderly_end import Ended


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
        fail(f"{ended}; nothing was metered", SIGNALLED + ended.number)
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
