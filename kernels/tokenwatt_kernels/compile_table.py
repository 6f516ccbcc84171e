"""The compile report as Markdown. The same reports give the same text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenwatt_kernels.compiling import CompileReport

PART = "compile report"


def table(reports: Sequence[CompileReport]) -> str:
    """One table per family: a row for each specimen, a column for each target, both as they first come."""
    versions = sorted({report.triton for report in reports})
    parts = [
        f"Compiled by triton {', '.join(versions)}. A cell holds the tile, registers per thread, dynamic shared memory,"
        " programs per\nmultiprocessor and the tensor-core instruction; `-`: this target does not have the type.\n"
    ]
    for family in dict.fromkeys(report.family for report in reports):
        cells = {(report.specimen, report.target): cell(report) for report in reports if report.family == family}
        targets = tuple(dict.fromkeys(target for _, target in cells))
        rows = [
            ("specimen", *targets),
            ("---",) * (1 + len(targets)),
            *(
                (specimen, *(cells.get((specimen, target), "-") for target in targets))
                for specimen in dict.fromkeys(specimen for specimen, _ in cells)
            ),
        ]
        parts.append(f"### {family}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows))
    return "\n".join(parts)


def cell(report: CompileReport) -> str:
    """Such as "128x64 w8 s2: 168 r, 96 KiB, 2/SM, HGMMA"."""
    if report.status == "skipped":
        return "skipped"
    if not report.registers:
        return "**FAILED**"
    kibibytes = f"{report.shared_bytes / 1024:.1f}".removesuffix(".0")
    facts = [f"{report.registers} r", f"{kibibytes} KiB", f"{report.programs_per_sm}/SM", report.tensor_core_kind]
    failed = "**FAILED** " if report.status == "failed" else ""
    configuration = f"{report.configuration}: " if report.configuration else ""
    return failed + configuration + ", ".join(filter(None, facts))
