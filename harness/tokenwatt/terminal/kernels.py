"""The tables of the kernels' bench."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Console

from tokenwatt.record import KernelTiming
from tokenwatt.terminal.as_json import kernel_rows_as_json
from tokenwatt.terminal.cells import MAX_WIDTH, WHY_NO_JOULES, new_table
from tokenwatt.units import format_si

US_PER_S = 1e6


TERA = 1e12


def print_kernels(rows: Sequence[KernelTiming]) -> None:
    """One table for each dtype, under the board and its ceilings; then what is doubtful, line by line."""
    for _, group in groupby(rows, key=lambda row: row.dtype):
        _print_kernels(list(group))


def _print_kernels(rows: Sequence[KernelTiming]) -> None:
    # A narrow terminal breaks long lines; rich would cut the numbers.
    console = Console(width=MAX_WIDTH)
    where = rows[0]
    limits_w = [row.gpu_power_limit_w for row in rows if row.gpu_power_limit_w is not None]
    console.print(
        f"\n{where.gpu_name or 'GPU without NVML'}, power limit {format_si(min(limits_w, default=None), 'W')}; "
        f"ceilings in {where.dtype}: {format_si(where.ceiling_flop_per_s, 'FLOP/s')}, "
        f"{format_si(where.ceiling_memory_bytes_per_s, 'B/s')}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    table = new_table("", "us", "20-80 %", "TFLOP/s", "TB/s", "of\nlimit", "x our\ntime", "per call", "power")
    problem, doubts = "", []
    for row, values in zip(rows, kernel_rows_as_json(rows), strict=True):
        if f"{row.family} {row.problem}" != problem:
            problem = f"{row.family} {row.problem}"
            table.add_row(problem)
        table.add_row(f"  {row.contender}", *_kernel_cells(row, values))
        notes = ", ".join((*row.reasons, *row.energy_reasons))
        if notes:
            doubts.append(f"  {problem} {row.contender}: {notes}")
    console.print(table)
    for doubt in doubts:
        console.print(doubt, highlight=False, markup=False, soft_wrap=True)


def _kernel_cells(row: KernelTiming, values: dict[str, Any]) -> list[str]:
    if row.median_s is None or row.low_s is None or row.high_s is None:
        return [str(row.status)]
    share, over_ours = values["fraction_of_limit"], values["time_over_ours"]
    return [
        f"{row.median_s * US_PER_S:.1f}",
        f"{row.low_s * US_PER_S:.1f}-{row.high_s * US_PER_S:.1f}",
        f"{values['flop_per_s'] / TERA:.1f}",
        f"{values['bytes_per_s'] / TERA:.2f}",
        "–" if share is None else f"{100 * share:.0f} %",
        "–" if over_ours is None else f"{over_ours:.2f}",
        format_si(values["joules_per_call"], "J") if row.gpu_energy_j else WHY_NO_JOULES.get(row.energy_status, "–"),
        format_si(values["gpu_power_w"], "W"),
    ]
