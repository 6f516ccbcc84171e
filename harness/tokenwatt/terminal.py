"""What people see on a terminal: progress, tables and findings. Plain lines where there is no terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from tokenwatt import metrics, store
from tokenwatt.analysis.results import DECIDING, is_ratio
from tokenwatt.doctor import Finding
from tokenwatt.economics.scenario import FleetStudy, central_by_method
from tokenwatt.perf_model.limits import LIMIT_COLUMNS, add_limits
from tokenwatt.power.virtual import Coverage, Outcome
from tokenwatt.record import (
    ClosureTerm,
    EnergyStatus,
    KernelTiming,
    Measurement,
    MeteredRun,
    Reason,
    Record,
    Result,
    Status,
)
from tokenwatt.units import format_si

if TYPE_CHECKING:
    import pandas as pd

MAX_WIDTH = 300
US_PER_S = 1e6
TERA = 1e12
CASES = ("central", "low", "high")
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
            duration = f" (up to {expected_s:.0f} s, and warm-up)" if expected_s else ""
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


def rows_as_json(rows: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Measured columns, metrics and the physical limit of each row, as plain values."""
    if not rows:
        return []
    table = add_limits(metrics.derive(store.to_table(rows, Measurement).to_pandas()))
    return _with_computed(rows, table, [*(metric.name for metric in metrics.METRICS), *LIMIT_COLUMNS])


def kernel_rows_as_json(rows: Sequence[KernelTiming]) -> list[dict[str, Any]]:
    """Measured columns and metrics of each row, as plain values."""
    table = store.to_table(rows, KernelTiming).to_pandas()
    return _with_computed(rows, table, [metric.name for metric in metrics.KERNEL_METRICS])


def metered_rows_as_json(rows: Sequence[MeteredRun]) -> list[dict[str, Any]]:
    """Measured columns and metrics of each row, as plain values."""
    table = store.to_table(rows, MeteredRun).to_pandas()
    return _with_computed(rows, table, [metric.name for metric in metrics.METER_METRICS])


def _with_computed(rows: Sequence[Record], table: pd.DataFrame, computed: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {**row.model_dump(mode="json"), **{name: _plain(values[name]) for name in computed}}
        for row, values in zip(rows, table.to_dict("records"), strict=True)
    ]


def _plain(value: Any) -> Any:
    """None for a missing value: JSON has no NaN."""
    return None if value is None or value != value else value


def print_measurements(rows: Sequence[Measurement], title: str, results: Sequence[Result]) -> None:
    """One line per point with the physical limit beside it, then what is doubtful, and comparisons, line by line.

    results: of these rows, as `analysis.results` makes them.
    """
    # A narrow terminal breaks long lines; rich would cut the numbers.
    console = Console(width=MAX_WIDTH)
    console.print(f"\n{title}", highlight=False, markup=False, soft_wrap=True)
    points = _points(rows, results)
    has_intervals = any(len(point.rows) > 1 for point in points)
    headings = ["workload", "C", "tokens/s", "limit", "of\nlimit", "J/token", "tokens/s\nper W", "TTFT", "TPOT"]
    table = _table(*headings, *(["windows"] if has_intervals else []))
    for point in points:
        table.add_row(*point.cells(), *([str(len(point.rows))] if has_intervals else []))
    console.print(table)
    lines = [line for point in points for line in point.doubts()]
    if any(is_doubtful(result) for point in points for result in point.results.values()):
        lines.append("?: a suspect energy, or a window that is not stable, is in the mean")
    if any(point.first.phase == "prefill" for point in points):
        lines.append("prefill: tokens/s and J/token are those of prompt tokens")
    for line in [*lines, *_comparisons(results)]:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def print_closure(rows: Sequence[Measurement], terms: Sequence[ClosureTerm], remarks: Sequence[str]) -> None:
    """What the energy of explained windows went into, a line for each, and what could not be explained."""
    console = Console(width=MAX_WIDTH)
    by_row = {row.measurement_id: row for row in rows}
    for measurement_id, group in groupby(terms, key=lambda term: term.measurement_id):
        parts = {term.term: term.energy_j for term in group}
        total_j, row = sum(parts.values()), by_row[measurement_id]
        shares = ", ".join(f"{name} {100 * part_j / total_j:.1f} %" for name, part_j in parts.items())
        line = f"  {row.workload} x{row.concurrency}: {format_si(total_j, 'J')} are {shares}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for remark in remarks:
        console.print(f"  {remark}", highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class _Point:
    """The windows of one point, for one line of the table."""

    rows: Sequence[Measurement]
    values: Sequence[dict[str, Any]]
    """Columns, metrics and limit of each row."""
    results: dict[str, Result]
    """By quantity."""

    @property
    def first(self) -> Measurement:
        return self.rows[0]

    @property
    def label(self) -> str:
        row = self.first
        parts = [row.workload, "" if row.phase == "mixed" else row.phase, row.variant or ""]
        parts.append("" if row.gpu_power_cap_w is None else f"{row.gpu_power_cap_w:g} W")
        return " ".join(filter(None, parts))

    def cells(self) -> list[str]:
        """What the table says of it."""
        energy, speed = DECIDING[self.first.phase]
        share = self._mean("share_of_limit")
        joules = self.results.get(energy)
        return [
            self.label,
            str(self.first.concurrency),
            compact(self._mean(speed)),
            compact(self._mean("limit_output_tokens_per_s")),
            "–" if share is None else f"{100 * share:.0f} %",
            _why_no_joules(self.first) if joules is None else with_half_width(joules),
            compact(self._mean("output_tokens_per_s_per_w")),
            format_si(self._mean("ttft_median_s"), "s"),
            format_si(self._mean("tpot_median_s"), "s"),
        ]

    def doubts(self) -> list[str]:
        """What is doubtful: each doubt once, with the number of windows that have it where not all do."""
        counts = Counter(filter(None, map(_notes, self.rows)))
        lines = [
            f"{self.label} x{self.first.concurrency}: {notes}"
            + ("" if count == len(self.rows) else f" ({count} of {len(self.rows)} windows)")
            for notes, count in counts.items()
        ]
        lines += [
            f"{self.label} x{self.first.concurrency}: {Reason.NOT_CONVERGED}: {quantity} is known to "
            f"{_width(result)} after {result.windows} windows; give it a larger budget_s or interval_width"
            for quantity, result in self.results.items()
            if result.has_converged is False
        ]
        return lines

    def _mean(self, name: str) -> float | None:
        known = [value for values in self.values if (value := values[name]) is not None]
        return sum(known) / len(known) if known else None


def _points(rows: Sequence[Measurement], results: Sequence[Result]) -> list[_Point]:
    """Rows by point, in the order of their first windows."""
    values = rows_as_json(rows)
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(row.point_id, []).append(place)
    own = [result for result in results if not is_ratio(result)]
    return [
        _Point(
            [rows[place] for place in places],
            [values[place] for place in places],
            {result.quantity: result for result in own if result.point_id == point_id},
        )
        for point_id, places in groups.items()
    ]


def _comparisons(results: Sequence[Result]) -> list[str]:
    """Ratios of compared points in words."""
    return [
        f"{result.workload} x{result.concurrency}: {result.quantity}: {result.mean:.4g}{_verdict(result)}"
        for result in results
        if is_ratio(result)
    ]


def _verdict(ratio: Result) -> str:
    if ratio.low is None or ratio.high is None:
        return "; one pair of windows has no interval"
    beyond = "the same within noise" if ratio.low <= 1 <= ratio.high else "a difference beyond noise"
    narrow = "" if ratio.has_converged is not False else f"; {Reason.NOT_CONVERGED}"
    return f" ({ratio.low:.4g} to {ratio.high:.4g}, {ratio.windows} pairs): {beyond}{narrow}"


def with_half_width(result: Result) -> str:
    """A mean with half of its 95 % interval in percent, where it has one, and a mark where its windows are doubtful."""
    text = compact(result.mean) if result.low is None else f"{compact(result.mean)} {_width(result)}"
    return f"{text} ?" if is_doubtful(result) else text


def is_doubtful(result: Result) -> bool:
    """Whether one of the windows behind a quantity with energy has a suspect energy, or is not stable."""
    has_energy = result.energy_status is not None
    return has_energy and (result.energy_status is not EnergyStatus.VALID or result.stable_windows < result.windows)


def _width(result: Result) -> str:
    if result.low is None or result.high is None or not result.mean:
        return "no interval"
    return f"± {50 * (result.high - result.low) / abs(result.mean):.2g} %"


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
    table = _table("", "us", "20-80 %", "TFLOP/s", "TB/s", "of\nlimit", "x our\ntime", "per call", "power")
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


def print_metered(row: MeteredRun) -> None:
    """What a command or a server took, on stderr: stdout belongs to the command."""
    console = Console(stderr=True, width=MAX_WIDTH)
    (values,) = metered_rows_as_json([row])
    ended = "" if row.exit_code is None else f", exit code {row.exit_code}"
    verdict = ", ".join([str(row.energy_status), *row.energy_reasons])
    console.print(f"\n{row.subject}", highlight=False, markup=False)
    console.print(f"{format_si(row.window_s, 's')}{ended}; energy {verdict}", highlight=False, markup=False)
    table = _table("", "energy", "mean power", "peak")
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


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left", vertical="bottom", no_wrap=True)
    return table


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
    table = _table("system", *(heading for _, heading in FLEET_COLUMNS))
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
    table = _table("speed", *scenario.systems)
    for method, rows in central_by_method(study).items():
        table.add_row(method, *(compact(row.usd_per_mtok) for row in rows))
    console.print(table)
    console.print()
    console.print("Facts:", highlight=False)
    for fact in study.facts:
        console.print(f"  {fact.cite()}", highlight=False, markup=False, soft_wrap=True)


def compact(value: float | None, digits: int = 3) -> str:
    """A number for a narrow column: `format_si` without its unit and spaces.

    >>> compact(16804.0), compact(0.0336, 2), compact(7.9e6, 2)
    ('16.8k', '0.034', '7.9M')
    """
    if value is None or value != value:
        return "–"
    return f"{value:.{digits}g}" if abs(value) < 1 else format_si(value, "", digits).replace(" ", "")


def compact_range(low: float, high: float) -> str:
    """Two ends in a narrow column; a prefix that both share is written once.

    >>> compact_range(1233.0, 1730.0), compact_range(669.0, 1000.0), compact_range(0.121, 0.246)
    ('1.2-1.7k', '670-1.0k', '0.12-0.25')
    """
    first, last = compact(low, 2), compact(high, 2)
    shared = first[-1].isalpha() and first[-1] == last[-1]
    return f"{first[:-1] if shared else first}-{last}"


def print_findings(findings: Sequence[Finding]) -> None:
    """One line per finding of the doctor."""
    console = Console()
    for finding in findings:
        mark = "[green]ok[/]" if finding.is_good else "[yellow]--[/]"
        console.print(f"{mark}  {finding.subject}: {finding.found}", highlight=False)
        if finding.advice:
            console.print(f"      {finding.advice}", highlight=False, markup=False)


def outcomes_as_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Every field of each outcome, with its error and whether it is right."""
    return [{**asdict(outcome), "error": outcome.error, "is_right": outcome.is_right} for outcome in outcomes]


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """The fault table: one line for each fault with the verdict on it; then what differs from what must come out."""
    # A narrow terminal breaks long lines; rich would cut the reasons.
    console = Console(width=MAX_WIDTH)
    table = _table("fault", "verdict", "true J", "measured J", "error", "")
    table.add_column("reasons", no_wrap=True)
    for outcome in outcomes:
        table.add_row(
            outcome.scenario,
            outcome.status,
            f"{outcome.true_j:.1f}",
            "–" if outcome.measured_j is None else f"{outcome.measured_j:.1f}",
            "–" if outcome.error is None else f"{100 * outcome.error:+.2f} %",
            "[green]ok[/]" if outcome.is_right else "[red]wrong[/]",
            ", ".join(outcome.reasons),
        )
    console.print(table, highlight=False)
    wrong = [outcome for outcome in outcomes if not outcome.is_right]
    console.print(f"\n{len(outcomes) - len(wrong)} of {len(outcomes)} as they must be", highlight=False)
    for outcome in wrong:
        console.print(f"  {outcome.scenario}: {_must_be(outcome)}", highlight=False, markup=False, soft_wrap=True)


def print_coverage(experiments: Sequence[Coverage]) -> None:
    """The coverage experiment: a line for each length of window."""
    console = Console(width=MAX_WIDTH)
    errors = ("half width\nmedian", "error\nmedian", "error\nworst", "sampled power\nmedian", "sampled power\nworst")
    table = _table("window", "trials", "95 % interval\nholds the truth", *errors)
    for experiment in experiments:
        shares = (
            experiment.half_width,
            experiment.median_error,
            experiment.worst_error,
            experiment.sampled_median_error,
            experiment.sampled_worst_error,
        )
        table.add_row(
            f"{experiment.window_s:.0f} s",
            str(experiment.trials),
            f"{100 * experiment.covered:.1f} %",
            *(f"{100 * share:.3f} %" for share in shares),
        )
    console.print(table, highlight=False)


def _must_be(outcome: Outcome) -> str:
    near = f"joules within {100 * outcome.accuracy:.1f} % of the truth"
    if outcome.must_be is None:
        return f"must be {near}"
    return f"must be {outcome.must_be}{f' for {outcome.must_say}' if outcome.must_say else ''}, {near}"


def _outcome(row: Measurement) -> str:
    if row.status is not Status.OK or row.output_tokens is None or row.window_s is None:
        return f"{row.status} ({row.detail or ', '.join(row.reasons)})"
    tokens = row.input_tokens if row.phase == "prefill" and row.input_tokens is not None else row.output_tokens
    windows = f", window {row.window_index + 1}" if row.window_index else ""
    return f"{tokens / row.window_s:.1f} tokens/s over {row.window_s:.1f} s{windows}"


def _why_no_joules(row: Measurement) -> str:
    return WHY_NO_JOULES.get(row.energy_status, "–") if row.status is Status.OK else "–"


def _notes(row: Measurement) -> str:
    """What is doubtful about a row; empty for a good one."""
    head = [] if row.status is Status.OK else [f"{row.status}: {row.detail}" if row.detail else str(row.status)]
    unstable = ["not stable"] if row.is_stable is False else []
    remark = [row.detail] if row.status is Status.OK and row.detail else []
    return ", ".join(dict.fromkeys([*head, *unstable, *row.reasons, *row.energy_reasons, *remark]))
