"""Results of other tools as rows of ours, each with what was lost on the way.

Read in this order: `source` (what an import starts from), `document` (files checked at the edge), `columns` and
`latencies` (what every imported row has), then one module for each format, the keys of two of them in a module of
their own (`aiperf_file`, `guidellm_file`).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from tokenwatt import store
from tokenwatt.errors import UserError, unknown_name
from tokenwatt.imports.document import json_value, read_bytes
from tokenwatt.imports.source import Given, Imported, Source, run_id_of
from tokenwatt.record import Measurement, RequestRecord

FORMATS = {
    "vllm-bench": "tokenwatt.imports.vllm_bench",
    "aiperf": "tokenwatt.imports.aiperf",
    "guidellm": "tokenwatt.imports.guidellm",
    "inferencex": "tokenwatt.imports.inferencex",
    "mlenergy": "tokenwatt.imports.mlenergy",
}
"""Name of a format -> the module that reads it."""


class Format(Protocol):
    """What the module of a format has; one with a file of requests beside its own has `records_name`, too."""

    def matches(self, document: Any) -> bool:
        """Whether a JSON value looks like this format."""
        ...

    def read(self, source: Source, given: Given) -> Imported:
        """Rows of a file; it reads and writes nothing else."""
        ...


def read(path: Path, name: str | None = None, given: Given | None = None) -> Imported:
    """Rows of one file.

    Args:
        path: the file.
        name: its format; None finds it by what is in the file.
        given: what the importer knows beside it.

    Raises:
        UserError: unreadable, half-written, of no known format or of several, or not what its format has.
    """
    content = read_bytes(path)
    document = json_value(content, str(path))
    chosen = _format(name if name is not None else detect(document, str(path)))
    lines_path = _records_path(path, chosen)
    lines = None if lines_path is None else _lines(lines_path)
    source = Source(str(path), run_id_of(content), document, lines, str(lines_path or ""))
    return chosen.read(source, given or Given())


def detect(document: Any, where: str) -> str:
    """The one format that a JSON value looks like.

    Raises:
        UserError: none, or several.
    """
    found = [name for name in FORMATS if _format(name).matches(document)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(sorted(FORMATS))
    if found:
        raise UserError(f"{where}: looks like {' and '.join(found)}; say which with --as")
    raise UserError(f"{where}: looks like no format that can be imported ({known}); --as FORMAT says what is missing")


def write(imported: Sequence[Imported], folder: Path) -> list[Path]:
    """Write each file's rows as a run of its own, `<folder>/<run_id>/`, replacing an earlier import of the same file.

    Raises:
        UserError: the folder cannot be written to.
    """
    written = []
    for each in imported:
        run = folder / each.measurements[0].run_id
        store.write(each.requests, RequestRecord, run)
        written.append(store.write(each.measurements, Measurement, run).parent)
    return list(dict.fromkeys(written))


def summary(imported: Imported, where: str) -> list[str]:
    """What a file became, and what was lost: lines for the terminal."""
    rows, requests = imported.measurements, len(imported.requests)
    head = f"{where}: {rows[0].imported_from}, {len(rows)} row{'' if len(rows) == 1 else 's'}, {requests} requests"
    return [head, *(f"  lost: {loss}" for loss in dict.fromkeys(loss for row in rows for loss in row.import_losses))]


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    return cast("Format", importlib.import_module(FORMATS[name]))


def _records_path(path: Path, chosen: Format) -> Path | None:
    """The file of requests beside `path`, where the format has one and it is there."""
    records_name = getattr(chosen, "records_name", None)
    beside = None if records_name is None else path.with_name(records_name(path.name))
    return beside if beside is not None and beside.is_file() else None


def _lines(path: Path) -> list[Any]:
    numbered = enumerate(read_bytes(path).splitlines(), start=1)
    return [json_value(line, f"{path}: line {number}") for number, line in numbered if line.strip()]
