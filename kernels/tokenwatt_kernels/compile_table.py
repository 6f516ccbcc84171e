"""The compile report as Markdown. The same reports give the same text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenwatt_kernels.compiling import CompileReport

PART = "compile report"


def table(reports: Sequence[CompileReport]) -> str:
    """One table per family: a row for each listed specimen, a column for each target, both as they first come."""
    versions = sorted({report.triton for report in reports})
    parts = [
        f"Compiled by triton {', '.join(versions)}. A cell holds the tile, registers per thread, dynamic shared memory,"
        " programs per\nmultiprocessor, tensor-core instructions and copies by the hardware; `-`: this target does not"
        " have the type. A cell\nthat does not say FAILED has no stack and no spills.\n"
    ]
    for family in dict.fromkeys(report.family for report in reports):
        own = [report for report in reports if report.family == family]
        cells = {(report.specimen, report.target): cell(report) for report in own if report.is_listed}
        targets = tuple(dict.fromkeys(target for _, target in cells))
        rows = [
            ("specimen", *targets),
            ("---",) * (1 + len(targets)),
            *(
                (specimen, *(cells.get((specimen, target), "-") for target in targets))
                for specimen in dict.fromkeys(specimen for specimen, _ in cells)
            ),
        ]
        parts.append(f"### {family}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows) + _rest(own))
    return "\n".join(parts)


def _rest(reports: Sequence[CompileReport]) -> str:
    """What became of the specimens that have no row: how many, and which failed."""
    rest = [report for report in reports if not report.is_listed]
    if not rest:
        return ""
    failed = [f"{report.specimen} {report.target}" for report in rest if report.status == "failed"]
    passed = sum(report.status == "passed" for report in rest)
    outcome = f"\n**FAILED**: {', '.join(failed)}.\n" if failed else ""
    return f"\nFurther combinations of shapes and options, each for each target: {passed} pass.\n{outcome}"


def cell(report: CompileReport) -> str:
    """Such as "128x64 w8 s2: 168 r, 96 KiB, 2/SM, 16 HGMMA, 5 TMA"."""
    if report.status == "skipped":
        return "skipped"
    if not report.registers:
        return "**FAILED**"
    kibibytes = f"{report.shared_bytes / 1024:.1f}".removesuffix(".0")
    facts = [
        f"{report.registers} r",
        f"{kibibytes} KiB",
        f"{report.programs_per_sm}/SM",
        f"{report.tensor_core_instructions} {report.tensor_core_kind}" if report.tensor_core_kind else "",
        f"{report.bulk_copies} TMA" if report.bulk_copies else "",
    ]
    failed = "**FAILED** " if report.status == "failed" else ""
    configuration = f"{report.configuration}: " if report.configuration else ""
    return failed + configuration + ", ".join(filter(None, facts))
