"""The gigawatt table, and what it rests on."""

from __future__ import annotations

from rich.console import Console

from tokenwatt.economics.scenario import FleetStudy, central_by_method
from tokenwatt.terminal.cells import compact, compact_range, new_table
from tokenwatt.units import format_si

CASES = ("central", "low", "high")


FLEET_COLUMNS = (
    ("output_tokens_per_s_per_gpu", "tokens/s\nper GPU"),
    ("gpu_power_w", "board\nW/GPU"),
    ("all_in_power_w_per_gpu", "all-in\nW/GPU"),
    ("gpus", "GPUs"),
    ("output_tokens_per_s_per_mw", "tokens/s\nper MW"),
    ("all_in_joules_per_output_token", "all-in\nJ/token"),
    ("usd_per_mtok", "$ per\nMtoken"),
)
"""Column of FleetEstimate and its heading."""


def print_fleet(study: FleetStudy) -> None:
    """One row per system, central value with its range below; then what it rests on."""
    scenario, reference = study.scenario, study.reference
    console = Console()
    budget = format_si(scenario.power_budget_w, "W")
    console.print(
        f"{scenario.name}: {budget} filled with one system at a time; range below each value", highlight=False
    )
    table = new_table("system", *(heading for _, heading in FLEET_COLUMNS))
    cases = {(row.system, row.case): row for row in study.estimates}
    for system in scenario.systems:
        central, low, high = ([getattr(cases[system, case], column) for column, _ in FLEET_COLUMNS] for case in CASES)
        table.add_row(system, *map(compact, central))
        table.add_row("", *map(compact_range, low, high), style="dim")
    console.print(table)
    console.print(
        f"from {reference.row_id}: {reference.model}, {reference.dtype}, {reference.system}, concurrency "
        f"{reference.concurrency}, {reference.output_tokens_per_s_per_gpu:.0f} tokens/s/GPU, "
        f"{1 / reference.tpot_s:.0f} tokens/s/user, {reference.gpu_power_w:.0f} W board power",
        highlight=False,
        markup=False,
    )
    console.print(f"{study.estimates[0].method}\n", highlight=False, markup=False)
    console.print("Central $ per Mtoken by the way that speed is carried over (the range above spans both):")
    table = new_table("speed", *scenario.systems)
    for method, rows in central_by_method(study).items():
        table.add_row(method, *(compact(row.usd_per_mtok) for row in rows))
    console.print(table)
    console.print()
    console.print("Facts:", highlight=False)
    for fact in study.facts:
        console.print(f"  {fact.cite()}", highlight=False, markup=False, soft_wrap=True)
