"""What each bench problem asks of a GPU, and the least time in which one with given ceilings can answer."""

from __future__ import annotations

from collections.abc import Sequence

from tokenwatt_kernels.families import part

PART = "work table"
MICRO, GIGA, TERA, MEBI = 1e-6, 1e9, 1e12, 2**20


def rows(families: Sequence[str], dtype_name: str, flop_per_s: float, bytes_per_s: float) -> list[tuple[str, ...]]:
    """One row per bench problem: name, GFLOP, MiB, flop per byte, least microseconds and what sets them."""
    found: list[tuple[str, ...]] = []
    for family in families:
        problems = part(family, "problems")
        if dtype_name not in problems.DTYPE_NAMES:
            continue
        for problem in problems.BENCH_PROBLEMS:
            if not problems.takes(problem, dtype_name, None):
                continue
            work = part(family, "work").work(problem, dtype_name)
            compute_s, memory_s = work.flop / flop_per_s, work.bytes / bytes_per_s
            found.append(
                (
                    f"{family} {problem.name}",
                    f"{work.flop / GIGA:.1f}",
                    f"{work.bytes / MEBI:.1f}",
                    f"{work.flop / work.bytes:.0f}",
                    f"{max(compute_s, memory_s) / MICRO:.1f}",
                    "flop" if compute_s > memory_s else "bytes",
                )
            )
    return found


def markdown(families: Sequence[str], dtype_name: str, flop_per_s: float, bytes_per_s: float) -> str:
    """The rows as a Markdown table with its ceilings."""
    heading = ("problem", "GFLOP", "MiB", "flop/byte", "least us", "set by")
    table = [heading, ("---",) * len(heading), *rows(families, dtype_name, flop_per_s, bytes_per_s)]
    caption = (
        f"{dtype_name} at {flop_per_s / TERA:.4g} TFLOP/s and {bytes_per_s / TERA:.4g} TB/s;"
        f" the two limits meet at {flop_per_s / bytes_per_s:.0f} flop/byte.\n\n"
    )
    return caption + "".join(f"| {' | '.join(row)} |\n" for row in table)
