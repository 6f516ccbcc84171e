"""The tables that a report is made from: measurements, and what stands beside them where a run wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pandas as pd

from tokenwatt import store
from tokenwatt.record import ClosureTerm, Measurement, PowerRecord, Record, Result

TRACE = ("run_id", "measurement_id", "source", "at_s", "power_w")
"""Columns of `power` that the report draws."""


def _without_rows(kind: type[Record], columns: Sequence[str] | None = None) -> pd.DataFrame:
    return pd.DataFrame(columns=list(columns or kind.model_fields))


@dataclass(frozen=True, slots=True)
class RunTables:
    """Tables as `store` reads them; those without rows are left out of the page."""

    measurements: pd.DataFrame
    """One row per window."""
    results: pd.DataFrame = field(default_factory=lambda: _without_rows(Result))
    """One row per point and quantity."""
    closure: pd.DataFrame = field(default_factory=lambda: _without_rows(ClosureTerm))
    """One row per window and term."""
    power: pd.DataFrame = field(default_factory=lambda: _without_rows(PowerRecord, TRACE))
    """One row per reading of a meter, columns `TRACE`."""

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Self:
        """Tables of runs: folders, or files of `measurements`, beside which the others may lie.

        Raises:
            UserError: no measurements, or a damaged file.
        """
        measurements = pd.concat([store.read(path, Measurement) for path in paths], ignore_index=True)
        return cls(
            measurements,
            _beside(paths, measurements, Result),
            _beside(paths, measurements, ClosureTerm),
            _beside(paths, measurements, PowerRecord, TRACE),
        )


def _beside(
    paths: Sequence[Path], measurements: pd.DataFrame, kind: type[Record], columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """One optional table, of the runs that have measurements here."""
    found = [store.read_beside(path, kind, columns) for path in paths]
    filled = [table for table in found if not table.empty] or found[:1]
    table = pd.concat(filled, ignore_index=True)
    return table[table["run_id"].isin(set(measurements["run_id"]))]
