"""The table of measured tiles as it was when the study was collected: what tuning found and gained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tokenwatt.errors import UserError
from tokenwatt.invocation import read_json
from tokenwatt.spec import validate
from tokenwatt_kernels import tables

FILE = "tiles.json"


class TileRow(BaseModel):
    """The fastest tile of one key, as `tokenwatt kernels tune` wrote it (`tokenwatt_kernels.tables.Row`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: dict[str, Any]
    tile: dict[str, Any]
    median_s: float
    default_median_s: float | None
    problems: tuple[str, ...]
    date: str
    triton: str
    torch: str

    @property
    def gain(self) -> float | None:
        """Time of the default tile over that of this one; None where the default was rejected."""
        return None if self.default_median_s is None else self.default_median_s / self.median_s


class TileTable(BaseModel):
    """The rows of one GPU, read without the kernels' own rules, which may have moved on since."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpu: str
    capability: int
    made_by: str
    rows: dict[str, tuple[TileRow, ...]]


def read(path: Path) -> TileTable:
    """The table in a file.

    Raises:
        UserError: it cannot be read, or is no table of tiles.
    """
    return validate(read_json(path), TileTable, str(path))


def find(gpu_name: str | None, given: Path | None) -> Path | None:
    """The file to publish: the given one, else that of the GPU in this tree; None where there is none.

    Raises:
        UserError: the given file is missing, or of another GPU.
    """
    if given is None:
        shipped = None if gpu_name is None else tables.path_of(gpu_name)
        return shipped if shipped is not None and shipped.is_file() else None
    if not given.is_file():
        raise UserError(f"no such table of tiles: {given}; `tokenwatt kernels tune` writes one")
    found = read(given).gpu
    if found != gpu_name:
        raise UserError(f"{given} is of {found}, the rows are of {gpu_name or 'no GPU'}; name the table of that GPU")
    return given
