"""The table of a metered command or server."""

from __future__ import annotations

from rich.console import Console

from tokenwatt.record import MeteredRun, Status
from tokenwatt.terminal.as_json import metered_rows_as_json
from tokenwatt.terminal.cells import MAX_WIDTH, compact, new_table
from tokenwatt.units import format_si


def print_metered(row: MeteredRun) -> None:
    """What a command or a server took, on stderr: stdout belongs to the command."""
    console = Console(stderr=True, width=MAX_WIDTH)
    (values,) = metered_rows_as_json([row])
    ended = "" if row.exit_code is None else f", exit code {row.exit_code}"
    verdict = ", ".join([str(row.energy_status), *row.energy_reasons])
    console.print(f"\n{row.subject}", highlight=False, markup=False)
    console.print(f"{format_si(row.window_s, 's')}{ended}; energy {verdict}", highlight=False, markup=False)
    table = new_table("", "energy", "mean power", "peak")
    for uuid, energy_j in zip(row.gpu_uuids, row.gpu_energy_by_gpu_j, strict=False):
        table.add_row(uuid, *_metered_cells(energy_j, row.window_s))
    if row.gpu_count:
        table.add_row("GPUs", *_metered_cells(row.gpu_energy_j, row.window_s), format_si(row.gpu_power_peak_w, "W"))
    if row.cpu_energy_j is not None:
        table.add_row("CPU packages", *_metered_cells(row.cpu_energy_j, row.window_s))
    if row.node_meter is not None:
        table.add_row(f"node, {row.node_meter}", *_metered_cells(row.node_energy_j, row.window_s))
    if table.row_count:
        console.print(table)
    notes = [
        f"idle power before: {format_si(row.gpu_idle_power_w, 'W')}" if row.gpu_idle_power_w is not None else "",
        f"tokens: {row.output_tokens} generated, {row.input_tokens or 0} in prompts" if row.output_tokens else "",
        f"{compact(values['joules_per_output_token'])} J per output token"
        if row.output_tokens and row.gpu_energy_j
        else "",
        ", ".join([f"node energy {row.node_energy_status}", *row.node_energy_reasons]) if row.node_meter else "",
        "" if row.status is Status.OK and not row.reasons else ", ".join([str(row.status), *row.reasons]),
        row.detail or "",
    ]
    for note in filter(None, notes):
        console.print(f"  {note}", highlight=False, markup=False, soft_wrap=True)


def _metered_cells(energy_j: float | None, window_s: float | None) -> tuple[str, str]:
    power_w = None if energy_j is None or not window_s else energy_j / window_s
    return format_si(energy_j, "J"), format_si(power_w, "W")
