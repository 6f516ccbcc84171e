"""The manifest of a study: which runs it came from, what was left out, and the hash of every file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from tokenwatt.errors import UserError
from tokenwatt.invocation import read_json
from tokenwatt.record import SCHEMA_VERSION
from tokenwatt.spec import validate

FILE = "manifest.json"


class Part(BaseModel):
    """Base of what the manifest holds."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class PublishedFile(Part):
    """One file of the study."""

    sha256: str
    """Of its bytes."""
    size_bytes: int
    """Its length."""
    rows: int | None
    """Rows of a table; null for other files."""


class PublishedRun(Part):
    """One run whose rows the study holds."""

    run_id: str
    """As in the rows."""
    command: str | None
    """What was typed, absolute paths cut to their last name; null where the run did not leave it."""
    is_finished: bool
    """Whether the run came to its end; one without `run.json` counts as cut short."""
    began_at: datetime
    """UTC time at which the run began."""
    last_measured_at: datetime
    """UTC time at which its last point, or contest, began."""
    git_commits: tuple[str, ...]
    """Commits that its rows name; `+dirty` where files differed."""
    tokenwatt_versions: tuple[str, ...]
    """tokenwatt that made its rows."""
    rows: Mapping[str, int]
    """Table -> rows that came from this run."""


class Readings(Part):
    """How much of what the runs recorded beside their rows is published."""

    power_recorded: int
    """Meter readings of the rows' windows and two seconds around them."""
    power_published: int
    """Those that are published."""
    power_every: int
    """1: all of them; n: every nth of each window and meter."""
    requests_recorded: int
    """Requests of the runs."""
    requests_published: int
    """Those that are published: all or none."""


class Manifest(Part):
    """What `manifest.json` holds."""

    study: str
    """Name of the study and of its folder."""
    schema_version: int
    """Meaning of the columns."""
    tokenwatt_version: str
    """tokenwatt that collected the runs."""
    measured_by: str
    """Who measured, as stated."""
    stated_commit: str | None
    """Commit of the tree that was measured, as stated by who published it; rows of a tree without git name none."""
    kernel_families: tuple[str, ...]
    """Kernel families of the tree that collected the runs, measured or not."""
    runs: tuple[PublishedRun, ...]
    """In the order in which they began."""
    readings: Readings
    """What was thinned or left out."""
    files: Mapping[str, PublishedFile] = {}
    """Name -> file, all but this one."""


def read(folder: Path) -> Manifest:
    """The manifest in the folder of a study.

    Raises:
        UserError: there is none, it is damaged, or of another schema.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"no {FILE} in {folder}; collect runs there: `tokenwatt data publish {folder.name} --from RUN`")
    content = read_json(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise UserError(f"{path}: schema version {version}, this tokenwatt reads 1 to {SCHEMA_VERSION}")
    return validate(content, Manifest, str(path))


def to_text(manifest: Manifest) -> str:
    """The manifest as JSON text."""
    return manifest.model_dump_json(indent=2) + "\n"


def with_files(manifest: Manifest, folder: Path) -> Manifest:
    """The manifest with the files that are in `folder` now."""
    files = {path.name: _described(path) for path in sorted(folder.iterdir()) if path.name != FILE}
    return manifest.model_copy(update={"files": files})


def _described(path: Path) -> PublishedFile:
    content = path.read_bytes()
    rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
    return PublishedFile(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content), rows=rows)
