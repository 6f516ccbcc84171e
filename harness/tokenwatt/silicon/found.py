"""What a step found, in one line: from the rows that it wrote, or the last line that it printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tokenwatt import store
from tokenwatt.record import KernelTiming, Measurement

OURS = "tokenwatt"
"""Our contender in the rows of the kernels' bench."""
LINE = 120
"""Characters of a line at most."""


def in_rows(runs: Sequence[Path]) -> str | None:
    """What the rows of these run folders say; None if there are none."""
    said = []
    for run in runs:
        if (run / f"{Measurement.grain}.parquet").is_file():
            said.append(_of_measurements(store.read(run, Measurement)))
        if (run / f"{KernelTiming.grain}.parquet").is_file():
            said.append(_of_kernels(store.read(run, KernelTiming)))
    return "; ".join(filter(None, said)) or None


def in_log(log: Path) -> str:
    """The last line with something in it, as a summary of tests or an error is.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     log = Path(folder) / "log"
    ...     _ = log.write_text("one\\n==== 2 passed in 1.20s ====\\n\\n")
    ...     in_log(log)
    '2 passed in 1.20s'
    """
    lines = [line.strip(" =\t") for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line[:LINE] for line in reversed(lines) if line), "")


def _of_measurements(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    good = rows[rows["status"] == "ok"]
    said = f"{len(good)} of {len(rows)} windows good"
    joules = good["joules_per_output_token"].dropna()
    return f"{said}, {joules.min():.3g} to {joules.max():.3g} J/token" if len(joules) else said


def _of_kernels(rows: pd.DataFrame) -> str:
    """How many rows, and where another contender is furthest ahead of ours."""
    if rows.empty:
        return ""
    measured = rows[rows["status"] == "measured"]
    said = f"{len(measured)} of {len(rows)} contenders timed"
    others = measured[(measured["contender"] != OURS) & measured["time_over_ours"].notna()]
    if others.empty:
        return said
    worst = others.loc[others["time_over_ours"].idxmin()]
    return f"{said}, worst {worst['contender']} at {worst['time_over_ours']:.2f} x our time ({worst['problem']})"
