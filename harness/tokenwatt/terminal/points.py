"""The table of a bench: one line per point, then what is doubtful, compared or explained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.console import Console

from tokenwatt.analysis.answers import answers_of
from tokenwatt.analysis.points import load_name
from tokenwatt.analysis.results import DECIDING, is_ratio
from tokenwatt.record import LOAD_COLUMNS, ClosureTerm, EnergyStatus, Measurement, Reason, Result, Status
from tokenwatt.terminal.as_json import rows_as_json
from tokenwatt.terminal.cells import MAX_WIDTH, WHY_NO_JOULES, compact, new_table
from tokenwatt.units import format_si


def print_measurements(rows: Sequence[Measurement], title: str, results: Sequence[Result]) -> None:
    """One line per point with the physical limit beside it, then what is doubtful, and comparisons, line by line.

    results: of these rows, as `analysis.results` makes them.
    """
    # A narrow terminal breaks long lines; rich would cut the numbers.
    console = Console(width=MAX_WIDTH)
    console.print(f"\n{title}", highlight=False, markup=False, soft_wrap=True)
    points = _points(rows, results)
    has_intervals = any(len(point.rows) > 1 for point in points)
    headings = ["workload", "load", "tokens/s", "limit", "of\nlimit", "J/token", "tokens/s\nper W", "TTFT", "TPOT"]
    has_level = any(row.requests_judged is not None for row in rows)
    table = new_table(*headings, *(["within\nSLO"] if has_level else []), *(["windows"] if has_intervals else []))
    for point in points:
        kept = [point.attainment()] if has_level else []
        table.add_row(*point.cells(), *kept, *([str(len(point.rows))] if has_intervals else []))
    console.print(table)
    lines = [line for point in points for line in point.doubts()]
    if any(is_doubtful(result) for point in points for result in point.results.values()):
        lines.append("?: a suspect energy, or a window that is not stable, is in the mean")
    if any(point.first.phase == "prefill" for point in points):
        lines.append("prefill: tokens/s and J/token are those of prompt tokens")
    for line in [*lines, *_answers(rows), *_comparisons(results)]:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def print_closure(rows: Sequence[Measurement], terms: Sequence[ClosureTerm], remarks: Sequence[str]) -> None:
    """What the energy of explained windows went into, a line for each, and what could not be explained."""
    console = Console(width=MAX_WIDTH)
    by_row = {row.measurement_id: row for row in rows}
    for measurement_id, group in groupby(terms, key=lambda term: term.measurement_id):
        parts = {term.term: term.energy_j for term in group}
        total_j, row = sum(parts.values()), by_row[measurement_id]
        shares = ", ".join(f"{name} {100 * part_j / total_j:.1f} %" for name, part_j in parts.items())
        line = f"  {row.workload} {_load(row)}: {format_si(total_j, 'J')} are {shares}"
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
            _load(self.first),
            compact(self._mean(speed)),
            compact(self._mean("limit_output_tokens_per_s")),
            "–" if share is None else f"{100 * share:.0f} %",
            _why_no_joules(self.first) if joules is None else with_half_width(joules),
            compact(self._mean("output_tokens_per_s_per_w")),
            format_si(self._mean("ttft_median_s"), "s"),
            format_si(self._mean("tpot_median_s"), "s"),
        ]

    def attainment(self) -> str:
        """Share of requests that kept the service level."""
        share = self._mean("slo_attainment")
        return "–" if share is None else f"{100 * share:.1f} %"

    def doubts(self) -> list[str]:
        """What is doubtful: each doubt once, with the number of windows that have it where not all do."""
        counts = Counter(filter(None, map(_notes, self.rows)))
        lines = [
            f"{self.label} {_load(self.first)}: {notes}"
            + ("" if count == len(self.rows) else f" ({count} of {len(self.rows)} windows)")
            for notes, count in counts.items()
        ]
        lines += [
            f"{self.label} {_load(self.first)}: {Reason.NOT_CONVERGED}: {quantity} is known to "
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


def _load(row: Measurement | Result) -> str:
    """How much of which load, in words."""
    return load_name(row.model_dump(include={"load", *LOAD_COLUMNS.values()}))


def _answers(rows: Sequence[Measurement]) -> list[str]:
    """What was found of each engine's answers, once; that they disagree stands with the failed rows."""
    found = dict.fromkeys(
        (f"{row.engine} {row.dtype} {row.model}", answers_of(row.model_dump()), row.accuracy_reference or "")
        for row in rows
        if row.accuracy_status in ("agrees", "not_applicable")
    )
    return [f"{engine}: {answers}{reference and f', reference {reference}'}" for engine, answers, reference in found]


def _comparisons(results: Sequence[Result]) -> list[str]:
    """Ratios of compared points in words."""
    return [
        f"{result.workload} {_load(result)}: {result.quantity}: {result.mean:.4g}{_verdict(result)}"
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


def _why_no_joules(row: Measurement) -> str:
    return WHY_NO_JOULES.get(row.energy_status, "–") if row.status is Status.OK else "–"


def _notes(row: Measurement) -> str:
    """What is doubtful about a row; empty for a good one."""
    head = [] if row.status is Status.OK else [f"{row.status}: {row.detail}" if row.detail else str(row.status)]
    unstable = ["not stable"] if row.is_stable is False else []
    remark = [row.detail] if row.status is Status.OK and row.detail else []
    return ", ".join(dict.fromkeys([*head, *unstable, *row.reasons, *row.energy_reasons, *remark]))
