"""Parquet in and out. A file is whole or absent: it is written beside its place and then moved there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tokenwatt import metrics
from tokenwatt.errors import UserError
from tokenwatt.migrations import migrate
from tokenwatt.record import RECORDS, SCHEMA_VERSION, Record
from tokenwatt.schema import arrow_schema, unit_of

GROUP_ROWS = 2**17
"""Rows of a row group at least, but for the last one."""


def write(rows: Sequence[Record], kind: type[Record], folder: Path) -> Path:
    """Write `rows` as `<folder>/<grain>.parquet`, replacing an earlier one in one step.

    Raises:
        UserError: the folder cannot be written to.
    """
    return write_table(to_table(rows, kind), folder / f"{kind.grain}.parquet")


def write_table(table: pa.Table, path: Path) -> Path:
    """Write an Arrow table to `path` in one step.

    Raises:
        UserError: the folder cannot be written to.
    """
    return write_whole(path, lambda file: pq.write_table(table, file, compression="zstd"))


def write_tables(tables: Iterable[pa.Table], kind: type[Record], folder: Path) -> Path:
    """Write tables one below the other as `<folder>/<grain>.parquet`, in one step; they may be made on the way.

    Raises:
        UserError: the folder cannot be written to.
    """

    def write_to(file: IO[bytes]) -> None:
        with pq.ParquetWriter(file, to_table([], kind).schema, compression="zstd") as writer:
            for group in _grouped(tables):
                writer.write_table(group)

    return write_whole(folder / f"{kind.grain}.parquet", write_to)


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Small tables put together."""
    held, rows = list[pa.Table](), 0
    for table in tables:
        held.append(table)
        rows += len(table)
        if rows >= GROUP_ROWS:
            yield pa.concat_tables(held)
            held, rows = [], 0
    if held:
        yield pa.concat_tables(held)


def write_whole(path: Path, write_to: Callable[[IO[bytes]], object]) -> Path:
    """Let `write_to` fill a file beside `path`, then move it there: readers see the old file or the whole new one.

    Raises:
        UserError: the folder cannot be written to.
    """
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", suffix=".part", delete=False) as file:
            part = Path(file.name)
            write_to(file)
        part.chmod(0o644)
        part.replace(path)
        part = None
    except OSError as error:
        raise UserError(f"{path.parent}: cannot write results there ({error.strerror or error})") from None
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return path


def check_place(path: Path, option: str) -> None:
    """Whether `write_whole` could write to `path`, which an option names, before hours are spent on what goes there.

    Raises:
        UserError: it names something else than a file, or its folder cannot be written to.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{option} needs a file, and {path} is {'a folder' if path.is_dir() else 'none'}")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{option}: {path} cannot be written, {folder} is no folder in which files can be made")


def to_table(rows: Sequence[Record], kind: type[Record]) -> pa.Table:
    """Rows as an Arrow table with its derived columns, each with its formula in the metadata."""
    return with_metrics(pa.Table.from_pylist([row.model_dump() for row in rows], schema=arrow_schema(kind)), kind)


def with_metrics(table: pa.Table, kind: type[Record]) -> pa.Table:
    """The measured columns of a table with its derived ones, each with its formula in the metadata."""
    chosen = metrics.METRICS_OF.get(kind.grain, ())
    derived = metrics.derive(table.to_pandas(), chosen)
    for metric in chosen:
        note = {"unit": metric.unit, "description": metric.description, "formula": metric.formula}
        column = pa.array(derived[metric.name], type=pa.float64(), from_pandas=True)
        table = table.append_column(pa.field(metric.name, pa.float64(), metadata=note), column)
    return table


def read(path: Path, kind: type[Record]) -> pd.DataFrame:
    """Read one table from a file, a run's folder, or a folder of runs; metrics are computed anew.

    Raises:
        UserError: nothing there, a damaged file, another table, or a newer schema.
    """
    files = [path] if path.is_file() else sorted(path.rglob(f"{kind.grain}.parquet"))
    if not files:
        raise UserError(f"no {kind.grain}.parquet under {path}; run `make bench` first, or name a run's folder")
    table = pa.concat_tables(read_arrow(file, kind) for file in files).to_pandas()
    return metrics.derive(table, metrics.METRICS_OF.get(kind.grain, ()))


def read_beside(path: Path, kind: type[Record], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A table that not every run has, without rows where it is absent: under `path`, or beside the file `path`.

    `columns` names those that are wanted; metrics are left out.

    Raises:
        UserError: a damaged file, another table, or a newer schema.
    """
    name = f"{kind.grain}.parquet"
    files = sorted(path.parent.glob(name)) if path.is_file() else sorted(path.rglob(name))
    wanted = list(columns or arrow_schema(kind).names)
    tables = [read_arrow(file, kind).select(wanted) for file in files]
    return pa.concat_tables(tables).to_pandas() if tables else pd.DataFrame(columns=wanted)


def read_arrow(path: Path, kind: type[Record]) -> pa.Table:
    """The measured columns of one file, in the order of the schema.

    Raises:
        UserError: a damaged file, another table, or a newer schema.
    """
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a complete parquet file ({reason}); restore it or move it away") from None
    metadata = table.schema.metadata or {}
    grain, version = metadata.get(b"grain", b"").decode(), metadata.get(b"schema_version", b"0").decode()
    if grain != kind.grain:
        raise UserError(f"{path}: holds table {grain or 'unknown'!r}, expected {kind.grain!r}")
    if not version.isdigit() or not 1 <= int(version) <= SCHEMA_VERSION:
        raise UserError(f"{path}: schema version {version}, this tokenwatt reads 1 to {SCHEMA_VERSION}")
    table = migrate(table, kind, int(version))
    schema = arrow_schema(kind)
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: lacks column {missing[0]!r}; it was not written by this tokenwatt")
    return table.select(schema.names).cast(schema)


def data_dictionary() -> str:
    """Every table and column in Markdown: the text of results/README.md."""
    lines = [
        "# Results",
        "",
        "<!-- Generated by `tokenwatt data schema`; do not edit. `make schema` writes it anew. -->",
        "",
        "`raw/<run_id>/` holds what `tokenwatt bench`, `tokenwatt kernels bench` and `tokenwatt meter` write on this",
        "machine (not committed), and `run.json` beside it the command of a run that came to its end.",
        "`published/<study>/` holds committed results with their provenance (`tokenwatt data publish`): a page,",
        "the environment, and a manifest with every file's hash. Units and descriptions are in each field's metadata:",
        "`pandas.read_parquet(path)` reads it, `pyarrow.parquet.read_schema(path)` shows the units.",
        f"Schema version {SCHEMA_VERSION}.",
    ]
    for kind in RECORDS:
        lines += ["", f"## `{kind.grain}`", "", _one_line(kind.__doc__)]
        lines += ["", "| column | type | unit | meaning |", "|---|---|---|---|"]
        for field in arrow_schema(kind):
            description = (field.metadata or {}).get(b"description", b"").decode()
            nullable = " or null" if field.nullable else ""
            unit = unit_of(kind, field.name) or ""
            lines.append(f"| `{field.name}` | {field.type}{nullable} | {unit} | {_one_line(description)} |")
        if kind.grain in metrics.METRICS_OF:
            lines += ["", "Derived from these columns, and computed anew on every read:", ""]
            lines += ["| column | unit | formula | better | meaning |", "|---|---|---|---|---|"]
            lines += [
                f"| `{metric.name}` | {metric.unit} | `{metric.formula}` | {metric.better} | {metric.description} |"
                for metric in metrics.METRICS_OF[kind.grain]
            ]
    return "\n".join(lines) + "\n"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
