"""The runs that a study is made from, as they lie under results/raw/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tokenwatt import invocation, store
from tokenwatt.errors import UserError
from tokenwatt.invocation import Invocation
from tokenwatt.record import ClosureTerm, KernelTiming, Measurement, PowerRecord, Record, RequestRecord, Result

LEADING: tuple[type[Record], ...] = (Measurement, KernelTiming)
"""Tables of which a run has at least one; the others stand beside them."""
BESIDE: tuple[type[Record], ...] = (Result, ClosureTerm, PowerRecord, RequestRecord)


@dataclass(frozen=True, slots=True)
class SourceRun:
    """One run: its tables, and the command that made it."""

    run_id: str
    tables: Mapping[str, pa.Table]
    """Name of the table -> its measured columns; tables without rows are left out."""
    invocation: Invocation | None
    """None for a run that was cut short."""

    def rows(self, kind: type[Record]) -> pa.Table:
        """One table, without rows where the run has none."""
        found = self.tables.get(kind.grain)
        return store.to_table([], kind).select(list(kind.model_fields)) if found is None else found

    def column(self, name: str) -> list[Any]:
        """Values of a column of its windows or contests that both kinds of rows have."""
        return [value for kind in LEADING for value in self.rows(kind).column(name).to_pylist()]


def read_runs(paths: Sequence[Path], may_be_unfinished: bool) -> list[SourceRun]:
    """The runs at `paths`, folders of runs or of folders of runs, in the order in which they began.

    Raises:
        UserError: a path without runs, a run twice, one without rows, or one that was cut short and may not be.
    """
    runs = [_read_run(folder) for path in paths for folder in _folders(path)]
    ids = [run.run_id for run in runs]
    for run in runs:
        if ids.count(run.run_id) > 1:
            raise UserError(f"run {run.run_id} is named {ids.count(run.run_id)} times; name each run once")
        if run.invocation is None and not may_be_unfinished:
            raise UserError(
                f"run {run.run_id} has no {invocation.FILE}, so it was cut short or runs still; wait for its end, leave"
                " it out, or add --allow-unfinished, which the page will say"
            )
    return sorted(runs, key=lambda run: (min(run.column("run_began_at")), run.run_id))


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise UserError(f"no such run: {path}; --from needs the folder of a run, such as results/raw/<run>")
    if any(path.glob("*.parquet")):
        return [path]
    found = sorted({file.parent for file in path.glob("*/*.parquet")})
    if not found:
        raise UserError(f"{path} holds no run; --from needs the folder of a run, or one that holds such folders")
    return found


def _read_run(folder: Path) -> SourceRun:
    files = {kind.grain: (folder / f"{kind.grain}.parquet", kind) for kind in (*LEADING, *BESIDE)}
    tables = {name: store.read_arrow(path, kind) for name, (path, kind) in files.items() if path.is_file()}
    filled = {name: table for name, table in tables.items() if len(table)}
    leading = [filled[kind.grain] for kind in LEADING if kind.grain in filled]
    if not leading:
        raise UserError(f"{folder} holds no row of {' or '.join(kind.grain for kind in LEADING)}: an unfinished run?")
    _check_measured_here(folder, filled)
    ids = {run_id for table in filled.values() for run_id in table["run_id"].unique().to_pylist()}
    if len(ids) > 1:
        raise UserError(f"{folder} holds rows of several runs ({', '.join(sorted(ids))}); needs one run a folder")
    return SourceRun(ids.pop(), filled, invocation.read(folder))


def _check_measured_here(folder: Path, tables: Mapping[str, pa.Table]) -> None:
    """A study holds what tokenwatt measured: its page says of each row on which machine, and lets readers recompute it.

    Raises:
        UserError: rows were imported from another tool.
    """
    if Measurement.grain not in tables:
        return
    tools = [tool for tool in tables[Measurement.grain]["imported_from"].unique().to_pylist() if tool is not None]
    if tools:
        raise UserError(f"{folder} was imported from {tools[0]}; a study holds rows that tokenwatt measured itself")
