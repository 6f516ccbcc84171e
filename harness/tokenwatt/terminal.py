"""What people see on a terminal: progress, tables and findings. Plain lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from tokenwatt import metrics, store
from tokenwatt.architecture import load_architecture
from tokenwatt.doctor import Finding
from tokenwatt.economics.scenario import FleetStudy
from tokenwatt.perf_model.roofline import RooflineLimit, closed_loop_limit
from tokenwatt.record import EnergyStatus, FleetEstimate, Measurement, Status
from tokenwatt.units import format_si

WHY_NO_JOULES = {
    EnergyStatus.NO_METER: "no meter",
    EnergyStatus.INVALID: "energy invalid",
}


class TerminalObserver:
    """Progress bar on a terminal, one line per step elsewhere; both on stderr, so that stdout stays clean."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._label = ""

    def __enter__(self) -> Self:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing."""
        self._progress.stop()

    def begin(self, label: str, expected_s: float) -> None:
        """Show a new step."""
        self._label = label
        self._task = self._progress.add_task(label, total=expected_s or None)
        if not self._console.is_terminal:
            duration = f" ({expected_s:.0f} s and warm-up)" if expected_s else ""
            self._console.print(f"  {label}{duration} ...", highlight=False)

    def advance(self, elapsed_s: float) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=elapsed_s)

    def end(self, measurement: Measurement | None) -> None:
        """Take the bar away and say in one line how a point went."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        if measurement is not None:
            self._console.print(f"  {self._label}: {_outcome(measurement)}", highlight=False, markup=False)


def limit_of(row: Measurement) -> RooflineLimit | None:
    """The physical ceiling of a row on its machine's own measured ceilings; None where something is unknown."""
    if row.model is None or row.dtype is None or row.isl is None or row.osl is None:
        return None
    if row.ceiling_memory_bytes_per_s is None or row.ceiling_flop_per_s is None:
        return None
    return closed_loop_limit(
        load_architecture(row.model),
        row.dtype,
        row.isl,
        row.osl,
        row.concurrency,
        row.ceiling_memory_bytes_per_s,
        row.ceiling_flop_per_s,
    )


def rows_as_json(rows: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Measured columns, metrics and the roofline limit of each row, as plain values."""
    derived = metrics.derive(store.to_table(rows, Measurement).to_pandas()) if rows else None
    result = []
    for position, row in enumerate(rows):
        assert derived is not None
        values = row.model_dump(mode="json")
        for metric in metrics.METRICS:
            value = float(derived[metric.name].iloc[position])
            values[metric.name] = None if value != value else value
        limit = limit_of(row)
        values["roofline_output_tokens_per_s"] = limit.output_tokens_per_s if limit else None
        values["roofline_bound"] = limit.bound if limit else None
        result.append(values)
    return result


def print_measurements(rows: Sequence[Measurement], title: str) -> None:
    """One line per measurement, the physical limit beside what was measured."""
    table = Table(title=title, title_justify="left", pad_edge=False)
    for name in ("workload", "C", "tokens/s", "limit", "% of limit", "J/token", "tokens/s/W", "TTFT", "TPOT", "notes"):
        table.add_column(name, justify="left" if name in ("workload", "notes") else "right")
    for row, values in zip(rows, rows_as_json(rows), strict=True):
        limit = values["roofline_output_tokens_per_s"]
        rate = values["output_tokens_per_s"]
        table.add_row(
            row.workload,
            str(row.concurrency),
            _number(rate),
            f"{limit:.1f} ({values['roofline_bound']})" if limit else "–",
            f"{100 * rate / limit:.0f} %" if limit and rate else "–",
            format_si(values["joules_per_output_token"], "J") if row.gpu_energy_j else _why_no_joules(row),
            _number(values["output_tokens_per_s_per_w"], 3),
            format_si(row.ttft_median_s, "s"),
            format_si(row.tpot_median_s, "s"),
            _notes(row),
        )
    Console().print(table)


FLEET_COLUMNS = (
    ("output_tokens_per_s_per_gpu", "tokens/s/GPU", 1.0),
    ("gpu_power_w", "board W/GPU", 1.0),
    ("facility_power_w_per_gpu", "facility W/GPU", 1.0),
    ("gpus", "GPUs (k)", 1e-3),
    ("output_tokens_per_s_per_mw", "Mtokens/s/MW", 1e-6),
    ("facility_joules_per_output_token", "facility J/token", 1.0),
    ("usd_per_mtok", "$/Mtoken", 1.0),
)
"""Column of FleetEstimate, heading, factor from the column's unit to the heading's."""


def print_fleet(study: FleetStudy) -> None:
    """One row per system, central value with its range below; then what it rests on."""
    scenario, reference = study.scenario, study.reference
    console = Console()
    title = f"{scenario.name}: {format_si(scenario.power_budget_w, 'W')} of one system at a time, central and (low-high)"
    table = Table(title=title, title_justify="left", pad_edge=False, show_lines=True)
    table.add_column("system")
    for _, heading, _ in FLEET_COLUMNS:
        table.add_column(heading, justify="right")
    cases = {(row.system, row.case): row for row in study.estimates}
    for system in scenario.systems:
        table.add_row(system, *(_range(cases, system, column, factor) for column, _, factor in FLEET_COLUMNS))
    console.print(table)
    console.print(
        f"from {reference.row_id}: {reference.model}, {reference.dtype}, {reference.system}, concurrency "
        f"{reference.concurrency}, {reference.output_tokens_per_s_per_gpu:.0f} tokens/s/GPU, "
        f"{1 / reference.tpot_s:.0f} tokens/s/user, {reference.gpu_power_w:.0f} W board power",
        highlight=False,
        markup=False,
    )
    console.print(f"{study.estimates[0].method}\n", highlight=False, markup=False)
    console.print("Facts:", highlight=False)
    for fact in study.facts:
        console.print(f"  {fact.cite()}", highlight=False, markup=False, soft_wrap=True)


def _range(cases: dict[tuple[str, str], FleetEstimate], system: str, column: str, factor: float) -> str:
    low, central, high = (factor * getattr(cases[system, case], column) for case in ("low", "central", "high"))
    return f"{central:.3g}\n({low:.3g}-{high:.3g})" if central < 1000 else f"{central:,.0f}\n({low:,.0f}-{high:,.0f})"


def print_findings(findings: Sequence[Finding]) -> None:
    """One line per finding of the doctor."""
    console = Console()
    for finding in findings:
        mark = "[green]ok[/]" if finding.is_good else "[yellow]--[/]"
        console.print(f"{mark}  {finding.subject}: {finding.found}", highlight=False)
        if finding.advice:
            console.print(f"      {finding.advice}", highlight=False, markup=False)


def _outcome(row: Measurement) -> str:
    if row.status is not Status.OK or row.output_tokens is None or row.window_s is None:
        return f"{row.status} ({row.detail or ', '.join(row.reasons)})"
    return f"{row.output_tokens / row.window_s:.1f} tokens/s over {row.window_s:.1f} s"


def _why_no_joules(row: Measurement) -> str:
    return WHY_NO_JOULES.get(row.energy_status, "–") if row.status is Status.OK else "–"


def _notes(row: Measurement) -> str:
    doubts = [*row.reasons, *row.energy_reasons]
    head = [] if row.status is Status.OK else [str(row.status)]
    unstable = ["not stable"] if row.is_stable is False else []
    return ", ".join([*head, *unstable, *doubts]) or "stable"


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
