"""What the doctor says: findings, the fault table, the coverage experiment."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from tokenwatt.doctor import Finding
from tokenwatt.power.virtual import Coverage, Outcome
from tokenwatt.terminal.cells import MAX_WIDTH, new_table


def print_findings(findings: Sequence[Finding]) -> None:
    """One line per finding of the doctor."""
    console = Console()
    for finding in findings:
        mark = "[green]ok[/]" if finding.is_good else "[yellow]--[/]"
        console.print(f"{mark}  {finding.subject}: {finding.found}", highlight=False)
        if finding.advice:
            console.print(f"      {finding.advice}", highlight=False, markup=False)


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """The fault table: one line for each fault with the verdict on it; then what differs from what must come out."""
    # A narrow terminal breaks long lines; rich would cut the reasons.
    console = Console(width=MAX_WIDTH)
    table = new_table("fault", "verdict", "true J", "measured J", "error", "")
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
    table = new_table("window", "trials", "95 % interval\nholds the truth", *errors)
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
