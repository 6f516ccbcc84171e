"""What the commands print: one line per result, a summary, or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenwatt_kernels.compiling import CompileReport
    from tokenwatt_kernels.contests import Result
    from tokenwatt_kernels.mutation import MutantVerdict
    from tokenwatt_kernels.testing import Verdict

MICRO, TERA = 1e-6, 1e12


def show(
    results: Iterable[Any],
    line: Callable[[Any], str],
    *,
    as_json: bool,
    last_line: Callable[[list[Any]], str] | None = None,
) -> bool:
    """Print each result as it comes, or all of them as one JSON list, and say whether all are good.

    The lines end with what `last_line` makes of all results.
    """
    shown = []
    for result in results:
        shown.append(result)
        if not as_json:
            print(line(result), *(f"    {reason}" for reason in result.reasons), sep="\n", flush=True)
    if as_json:
        print(json.dumps([result.as_row() for result in shown], indent=1))
    elif last_line is not None:
        print(last_line(shown))
    return not any(result.status in ("failed", "disagrees") for result in shown)


def summary(statuses: Sequence[tuple[str, str]]) -> str:
    """Such as "54 of 54 passed", "48 of 54 passed, 6 skipped" or "2 of 54 FAILED: name, name"."""
    total = len(statuses)
    failed = [name for name, status in statuses if status == "failed"]
    if failed:
        return f"{len(failed)} of {total} FAILED: {', '.join(failed)}"
    skipped = sum(status == "skipped" for _, status in statuses)
    return f"{total - skipped} of {total} passed" + (f", {skipped} skipped" if skipped else "")


def check_summary(results: Sequence[Verdict | MutantVerdict]) -> str:
    """Such as "54 of 54 passed, worst error 71 % of its limit (case float32); 12 of 12 mutants rejected"."""
    from tokenwatt_kernels.testing import Verdict

    verdicts = [result for result in results if isinstance(result, Verdict)]
    text = summary([(_name(verdict), verdict.status) for verdict in verdicts])
    if verdicts:
        worst = max(verdicts, key=_share_of_limit)
        text += f", worst error {100 * _share_of_limit(worst):.0f} % of its limit ({_name(worst)})"
    mutants = [result for result in results if not isinstance(result, Verdict)]
    accepted = [f"{mutant.family} {mutant.mutant}" for mutant in mutants if mutant.status == "failed"]
    if mutants:
        text += f"; {len(mutants) - len(accepted)} of {len(mutants)} mutants rejected"
    return text + (f", NOT: {', '.join(accepted)}" if accepted else "")


def _name(verdict: Verdict) -> str:
    return f"{verdict.case} {verdict.dtype}"


def _share_of_limit(verdict: Verdict) -> float:
    """The larger of the two errors as a share of its limit."""
    pairs = ((verdict.max_abs_error, verdict.max_abs_limit), (verdict.rms_error, verdict.rms_limit))
    return max(error / limit if limit else math.inf * error if error else 0.0 for error, limit in pairs)


def check_line(result: Verdict | MutantVerdict) -> str:
    """One line of the gate: a case with its errors, or a mutant with what the gate said against it."""
    from tokenwatt_kernels.testing import Verdict

    if isinstance(result, Verdict):
        return (
            f"{result.status:8} {result.case:72} {result.dtype:13} max {result.max_abs_error:.2e}"
            f" (limit {result.max_abs_limit:.2e})  rms {result.rms_error:.2e} (limit {result.rms_limit:.2e})"
        )
    verb = "rejected" if result.status == "passed" else "ACCEPTED"
    objection = result.objections[0] if result.objections else ""
    return f"{verb:8} mutant {result.family} {result.mutant:45} {result.dtype:13} {objection}"


def report_line(report: CompileReport) -> str:
    """One specimen on one target."""
    kind = report.tensor_core_kind or "mma"
    return (
        f"{report.status:7} {report.target:6} {report.specimen:40} {report.configuration:26}"
        f" {report.registers:3} registers {report.shared_bytes:6} B shared {report.programs_per_sm:2}/SM"
        f" {report.stack_bytes:3} B stack"
        f" {report.spill_instructions:3} spills {report.tensor_core_instructions:3} {kind:11}"
        f" {report.async_copies:3} async {report.bulk_copies:2} bulk copies ({report.counted_in})"
    )


def result_line(result: Result) -> str:
    """One contender on one problem."""
    name = f"{result.status:11} {result.problem:40} {result.dtype:13} {result.contender:15}"
    if result.median_s is None or result.low_s is None or result.high_s is None:
        return name.rstrip()
    rates = [
        f"{rate / TERA:6.1f} {unit}"
        for rate, unit in ((result.flop_per_s, "TFLOP/s"), (result.bytes_per_s, "TB/s"))
        if rate is not None
    ]
    times = f"{result.median_s / MICRO:9.1f} us ({result.low_s / MICRO:.1f}-{result.high_s / MICRO:.1f})"
    ratio = "" if result.time_over_ours is None else f"  {result.time_over_ours:5.2f} x our time"
    return f"{name} {times}  {' '.join(rates)}{ratio}"
