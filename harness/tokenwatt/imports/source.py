"""What an import starts from: one file, and what its importer knows beside it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from tokenwatt.record import Measurement, RequestRecord

HASH_DIGITS = 12
"""Of the SHA-256 of a file, in the name of its run."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the importer says of the machine where a file does not; the file's own word goes first."""

    gpu_name: str | None = None
    """Name of the GPUs."""
    gpu_count: int | None = None
    """GPUs behind the rows."""
    usd_per_gpu_h: float | None = None
    """Price of a GPU for an hour."""
    engine: str | None = None
    """What computed."""


@dataclass(frozen=True, slots=True)
class Source:
    """One parsed file."""

    where: str
    """Its name, for messages."""
    run_id: str
    """Run that its rows make; see `run_id_of`."""
    document: Any
    """Its JSON value."""
    lines: list[Any] | None = None
    """JSON values of the file of requests that lies beside it, where its format has one."""
    lines_where: str = ""
    """Name of that file."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What one file became."""

    measurements: list[Measurement]
    """One row for each run of the tool that the file holds."""
    requests: list[RequestRecord]
    """Requests of those rows; empty where the file has none."""


def run_id_of(content: bytes) -> str:
    """Name of the run that a file becomes: the same bytes are the same run, whenever and wherever they are imported.

    What the importer says, and a file of requests beside it, are no part of the name: importing a file again with more
    of them replaces its rows.

    >>> run_id_of(b"{}")
    'import-44136fa355b3'
    """
    return f"import-{hashlib.sha256(content).hexdigest()[:HASH_DIGITS]}"
