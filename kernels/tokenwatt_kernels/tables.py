"""Measured tiles: one JSON file per GPU under gpu_tables/, written by `tune`, read where a kernel is launched.

A file holds the GPU's name as torch reports it, its capability, and for each family a row per key. A key is what the
tile depends on besides the GPU. What a family's keys and tiles are, its `tiles` part says:

    KEY                                   the dataclass of a key
    KERNELS                               the dataclass of a tile for each kernel; a tile that names none is "triton"
    is_valid_on(tile, key, capability)    whether the kernel compiles with the tile
    default(key, capability)              the tile where none has been measured

Plain Python: importing this needs neither torch nor triton.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, astuple, dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, NoReturn

from tokenwatt_kernels.families import FAMILIES, part
from tokenwatt_kernels.targets import target_for

LOG = logging.getLogger("tokenwatt_kernels")
MADE_BY = "tokenwatt kernels tune"
DEFAULT_KERNEL = "triton"
DIGITS = 4  # of a time
SUFFIX = ".json"


class TableError(ValueError):
    """A table that cannot be used. The message names file, row and field."""


@dataclass(frozen=True, slots=True)
class Row:
    """The tile that was the fastest for one key.

    median_s: geometric mean of the median times on `problems`. default_median_s: that of the default tile; None where
        the default was rejected.
    date, triton, torch: when and with what the times were taken.
    """

    key: Any
    tile: Any
    median_s: float
    default_median_s: float | None
    problems: tuple[str, ...]
    date: str
    triton: str
    torch: str


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one GPU: family -> key -> row."""

    gpu: str
    capability: int
    rows: Mapping[str, Mapping[Any, Row]] = field(default_factory=dict)

    def with_row(self, family: str, row: Row) -> Table:
        """The same table with one row more, or another one for that key."""
        return replace(self, rows={**self.rows, family: {**self.rows.get(family, {}), row.key: row}})


def find(gpu_name: str, family: str, key: Any) -> Any | None:
    """The measured tile for a key; None where the GPU has no table or its table no such row."""
    table = for_gpu(gpu_name)
    row = None if table is None else table.rows.get(family, {}).get(key)
    return None if row is None else row.tile


def origin(gpu_name: str, family: str, key: Any, tile: Any) -> Literal["table", "default"]:
    """Where the tile that is launched for a key comes from."""
    return "table" if find(gpu_name, family, key) == tile else "default"


@cache
def tile_on(family: str, gpu_name: str, capability: int, key: Any) -> Any:
    """The tile for a key on a GPU: the measured one, else the default; a GPU without any is told about once."""
    measured = find(gpu_name, family, key)
    if measured is not None:
        return measured
    tell_if_unknown(gpu_name, capability)
    return part(family, "tiles").default(key, capability)


@cache
def tell_if_unknown(gpu_name: str, capability: int) -> None:
    """Say once that a GPU has no table, and what to do about it."""
    if for_gpu(gpu_name) is None:
        LOG.warning(
            "no measured tiles for %s: safe ones for sm_%d are used; `tokenwatt kernels tune` measures better ones",
            gpu_name,
            capability,
        )


@cache
def for_gpu(gpu_name: str) -> Table | None:
    """The table that ships for a GPU, or None. Raises TableError for one that cannot be used."""
    file = folder().joinpath(file_name(gpu_name))
    return read(file) if file.is_file() else None


def folder() -> Traversable:
    """Where the tables are."""
    return files("tokenwatt_kernels").joinpath("gpu_tables")


def file_name(gpu_name: str) -> str:
    """The file of a GPU.

    >>> file_name("NVIDIA H100 80GB HBM3")
    'nvidia_h100_80gb_hbm3.json'
    """
    return re.sub(r"[^a-z0-9]+", "_", gpu_name.lower()).strip("_") + SUFFIX


def path_of(gpu_name: str) -> Path:
    """Where `tune` writes the table of a GPU."""
    return Path(str(folder())) / file_name(gpu_name)


def rows_for(capability: int, family: str) -> list[tuple[str, Row]]:
    """The rows of a family in the tables that ship for GPUs of `capability`, each with a name for it."""
    shipped = (read(file) for file in folder().iterdir() if file.name.endswith(SUFFIX))
    return [
        (f"{table.gpu} {' '.join(map(str, astuple(row.key)))}", row)
        for table in shipped
        if table.capability == capability
        for row in table.rows.get(family, {}).values()
    ]


def to_extend(path: Path, gpu_name: str, capability: int) -> Table:
    """The table in a file, or an empty one for a new file. Raises TableError if it cannot be written for this GPU."""
    if not os.access(path.parent, os.W_OK):
        raise TableError(f"the table must go into a folder that can be written, got {path.parent}; use --output FILE")
    if not path.is_file():
        return Table(gpu_name, capability)
    table = read(path)
    if (table.gpu, table.capability) != (gpu_name, capability):
        raise TableError(
            f"{path} must be of this GPU, {gpu_name} (sm_{capability}), got {table.gpu} (sm_{table.capability}); use"
            " --output FILE"
        )
    return table


def read(file: Traversable) -> Table:
    """The table in a file. Raises TableError unless every row of it can be used."""
    place = str(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        _refuse(f"{place}: line {error.lineno}", "must be JSON", error.msg)
    _check_names(found, ("gpu", "capability", "made_by", "rows"), f"{place}:")
    gpu = _typed(found["gpu"], str, f"{place}: gpu")
    capability = _typed(found["capability"], int, f"{place}: capability")
    try:
        target_for(capability)
    except ValueError as error:
        raise TableError(f"{place}: {error}") from None
    families = _typed(found["rows"], dict, f"{place}: rows")
    rows = {}
    for family, listed in families.items():
        if family not in FAMILIES:
            _refuse(f"{place}: rows", f"must be of {', '.join(FAMILIES)}", family)
        rows[family] = _rows(_typed(listed, list, f"{place}: {family}"), family, capability, place)
    return Table(gpu, capability, rows)


def _rows(listed: Sequence[Any], family: str, capability: int, place: str) -> dict[Any, Row]:
    rows: dict[Any, Row] = {}
    for number, found in enumerate(listed, start=1):
        row = _row(found, family, capability, f"{place}: {family} row {number}:")
        if row.key in rows:
            _refuse(f"{place}: {family} row {number}: key", "must be in no other row", f"{asdict(row.key)} twice")
        rows[row.key] = row
    return rows


def _row(found: Any, family: str, capability: int, place: str) -> Row:
    tiles = part(family, "tiles")
    _check_names(found, [known.name for known in fields(Row)], place)
    key = _built(tiles.KEY, found["key"], f"{place} key")
    tile_fields = dict(_typed(found["tile"], dict, f"{place} tile"))
    kernel = tile_fields.pop("kernel", DEFAULT_KERNEL)
    if kernel not in tiles.KERNELS:
        _refuse(f"{place} tile.kernel", f"must be one of {', '.join(tiles.KERNELS)}", repr(kernel))
    tile = _built(tiles.KERNELS[kernel], tile_fields, f"{place} tile")
    if not tiles.is_valid_on(tile, key, capability):
        _refuse(f"{place} tile", f"must be valid on sm_{capability} for {asdict(key)}", str(asdict(tile)))
    default_median_s = found["default_median_s"]
    return Row(
        key=key,
        tile=tile,
        median_s=_seconds(found["median_s"], f"{place} median_s"),
        default_median_s=None if default_median_s is None else _seconds(default_median_s, f"{place} default_median_s"),
        problems=tuple(_typed(name, str, f"{place} problems") for name in _typed(found["problems"], list, place)),
        **{name: _typed(found[name], str, f"{place} {name}") for name in ("date", "triton", "torch")},
    )


def _built(cls: type[Any], found: Any, place: str) -> Any:
    """A dataclass of int and bool fields from a JSON object; only fields with a default may be left out."""
    _typed(found, dict, place)
    known = {known.name: known for known in fields(cls)}
    _check_names(found, list(known), place, optional=[name for name in known if known[name].default is not MISSING])
    for name in found:
        # With annotations as text, the type of a field is its name.
        if type(found[name]).__name__ != known[name].type:
            _refuse(f"{place}.{name}", f"must be of type {known[name].type}", repr(found[name]))
    return cls(**found)


def _check_names(found: Any, known: Sequence[str], place: str, optional: Sequence[str] = ()) -> None:
    _typed(found, dict, place)
    for name in known:
        if name not in found and name not in optional:
            _refuse(place, f"must have the field {name}", ", ".join(found) or "no field")
    for name in found:
        if name not in known:
            _refuse(place, f"must have the fields {', '.join(known)} alone", name)


def _typed(found: Any, kind: type[Any], place: str) -> Any:
    if type(found) is not kind:
        _refuse(place, f"must be of type {kind.__name__}", repr(found))
    return found


def _seconds(found: Any, place: str) -> float:
    if type(found) not in (int, float) or not 0 < found < math.inf:
        _refuse(place, "must be a number of seconds > 0", repr(found))
    return float(found)


def _refuse(place: str, allowed: str, found: str) -> NoReturn:
    raise TableError(f"{place} {allowed}, got {found}; delete the row or the file, then run `{MADE_BY}`")


def write(table: Table, path: Path) -> None:
    """Replace a file as a whole: whoever reads it finds the old table or the new one."""
    part_path = path.with_name(f"{path.name}.part")
    part_path.write_text(to_json(table), encoding="utf-8")
    part_path.replace(path)


def to_json(table: Table) -> str:
    """One row per line, sorted by family and key, so that a new table differs from the old one in what has changed."""
    head = {"gpu": table.gpu, "capability": table.capability, "made_by": MADE_BY}
    lines = [f" {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    families = [
        f"  {json.dumps(family)}: [\n{_lines(family, table.rows[family].values())}\n  ]"
        for family in sorted(table.rows)
    ]
    return "\n".join(["{", *lines, ' "rows": {', ",\n".join(families), " }", "}", ""])


def _lines(family: str, rows: Any) -> str:
    ordered = sorted(rows, key=lambda row: astuple(row.key))
    return ",\n".join(f"   {json.dumps(_fields(family, row))}" for row in ordered)


def _fields(family: str, row: Row) -> dict[str, Any]:
    kernels = {cls: kernel for kernel, cls in part(family, "tiles").KERNELS.items()}
    kernel = kernels[type(row.tile)]
    named = {} if kernel == DEFAULT_KERNEL else {"kernel": kernel}
    return {
        **{known.name: getattr(row, known.name) for known in fields(Row)},
        "key": asdict(row.key),
        "tile": {**named, **asdict(row.tile)},
        "median_s": _rounded(row.median_s),
        "default_median_s": None if row.default_median_s is None else _rounded(row.default_median_s),
    }


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.{DIGITS}g}")
