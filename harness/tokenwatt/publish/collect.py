"""From runs to the files of a study: tables put together, readings thinned where there are too many."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tokenwatt import __version__, store
from tokenwatt.errors import UserError
from tokenwatt.publish import tile_table
from tokenwatt.publish.manifest import Manifest, PublishedRun, Readings
from tokenwatt.publish.readings import MAX_REQUESTS_BYTES, size_bytes, thinned
from tokenwatt.publish.sources import SourceRun, read_runs
from tokenwatt.record import (
    SCHEMA_VERSION,
    ClosureTerm,
    KernelTiming,
    Measurement,
    PowerRecord,
    Record,
    RequestRecord,
    Result,
)
from tokenwatt_kernels.families import FAMILIES

SOMEBODY = "the authors of this repository"
"""Who measured, where nobody says."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to collect, and what is let pass."""

    runs: tuple[Path, ...]
    """Folders of runs, or of folders of runs."""
    tiles: Path | None = None
    """Table of tiles; None takes that of the GPU in this tree, if it has one."""
    may_mix_gpus: bool = False
    """Whether rows of different boards may stand in one study."""
    may_be_unfinished: bool = False
    """Whether runs that were cut short may."""
    measured_by: str = SOMEBODY
    """Who measured."""
    commit: str | None = None
    """Commit of the tree that was measured, for rows that name none."""


@dataclass(frozen=True, slots=True)
class Collection:
    """Runs that have been read and may be published together."""

    runs: tuple[SourceRun, ...]
    tiles: Path | None
    choice: Choice


def read(choice: Choice) -> Collection:
    """Read everything before anything is written.

    Raises:
        UserError: runs are missing, unfinished, of several GPUs, or cannot be read; or the table of tiles is wrong.
    """
    runs = read_runs(choice.runs, choice.may_be_unfinished)
    names = list(dict.fromkeys(str(name or "no GPU") for run in runs for name in run.column("gpu_name")))
    if len(names) > 1 and not choice.may_mix_gpus:
        raise UserError(
            f"the runs are of {' and of '.join(names)}; publish a study for each, or add --allow-mixed-gpus"
        )
    only = names[0] if len(names) == 1 and names[0] != "no GPU" else None
    return Collection(tuple(runs), tile_table.find(only, choice.tiles), choice)


def write(collection: Collection, study: str, folder: Path) -> Manifest:
    """Write the tables of a study into an empty folder; what its manifest says of them."""
    runs = collection.runs
    for kind in (Measurement, Result, KernelTiming, ClosureTerm):
        _write(_joined(runs, kind), kind, folder)
    readings = _near_rows(_joined(runs, PowerRecord), runs)
    kept, every = thinned(readings)
    _write(kept, PowerRecord, folder)
    requests = _joined(runs, RequestRecord)
    is_small = size_bytes(requests) <= MAX_REQUESTS_BYTES
    if is_small:
        _write(requests, RequestRecord, folder)
    if collection.tiles is not None:
        shutil.copyfile(collection.tiles, folder / tile_table.FILE)
    return Manifest(
        study=study,
        schema_version=SCHEMA_VERSION,
        tokenwatt_version=__version__,
        measured_by=collection.choice.measured_by,
        stated_commit=collection.choice.commit,
        kernel_families=tuple(FAMILIES),
        runs=tuple(map(_described, runs)),
        readings=Readings(
            power_recorded=len(readings),
            power_published=len(kept),
            power_every=every,
            requests_recorded=len(requests),
            requests_published=len(requests) if is_small else 0,
        ),
    )


def _joined(runs: Sequence[SourceRun], kind: type[Record]) -> pa.Table:
    return pa.concat_tables(run.rows(kind) for run in runs)


def _write(table: pa.Table, kind: type[Record], folder: Path) -> None:
    if len(table):
        store.write_table(store.with_metrics(table, kind), folder / f"{kind.grain}.parquet")


def _near_rows(readings: pa.Table, runs: Sequence[SourceRun]) -> pa.Table:
    """Readings that are filed under a row: those of its window and what verdicts need around it."""
    ids = [name for run in runs for name in run.column("measurement_id")]
    return readings.filter(pa.array(readings["measurement_id"].to_pandas().isin(ids).to_numpy(dtype=bool)))


def _described(run: SourceRun) -> PublishedRun:
    command = None if run.invocation is None else _without_places(run.invocation.command)
    return PublishedRun(
        run_id=run.run_id,
        command=command,
        is_finished=run.invocation is not None,
        began_at=min(run.column("run_began_at")),
        last_measured_at=max(run.column("measured_at")),
        git_commits=_each_once(run.column("git_commit")),
        tokenwatt_versions=_each_once(run.column("tokenwatt_version")),
        rows={name: len(table) for name, table in run.tables.items()},
    )


def _each_once(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(value) for value in values if value is not None))


def _without_places(command: str) -> str:
    """A command whose absolute paths, which mean nothing on another machine, are cut to their last name.

    >>> _without_places("tokenwatt bench /home/me/suite.toml --results results/raw")
    'tokenwatt bench suite.toml --results results/raw'
    """
    return shlex.join(Path(word).name if word.startswith("/") else word for word in shlex.split(command))
