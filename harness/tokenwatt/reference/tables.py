"""CSV in, validated rows out. A bad cell is answered with its file and line."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from tokenwatt.errors import UserError
from tokenwatt.spec import validate


class Row(BaseModel):
    """Base of every row read from CSV: text becomes the declared type, unknown columns are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        str_strip_whitespace=True,
    )


RowT = TypeVar("RowT", bound=Row)


def read_rows(path: Path, kind: type[RowT], key: tuple[str, ...]) -> list[RowT]:
    """Read every line of `path` as a `kind`; an empty cell of a column with a default takes that default.

    Raises:
        UserError: no such file, other columns than `kind` has, a bad value, or two lines with the same `key`.
    """
    rows: list[RowT] = []
    lines: dict[tuple[Any, ...], int] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(path, reader.fieldnames or [], kind)
            for cells in reader:
                where = f"{path.name}:{reader.line_num}"
                row = validate(_filled(cells, kind, where), kind, where)
                name = tuple(getattr(row, column) for column in key)
                if name in lines:
                    raise UserError(f"{where}: {' '.join(map(str, name))!r} stands in line {lines[name]} already")
                lines[name] = reader.line_num
                rows.append(row)
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None
    return rows


def _check_columns(path: Path, found: Sequence[str], kind: type[Row]) -> None:
    expected = list(kind.model_fields)
    if list(found) != expected:
        raise UserError(f"{path.name}:1: columns must be {','.join(expected)}; got {','.join(found) or 'none'}")


def _filled(cells: dict[str | Any, Any], kind: type[Row], where: str) -> dict[str, Any]:
    """Cells of one line without the empty ones that may be left out."""
    if None in cells or None in cells.values():
        raise UserError(f"{where}: needs {len(kind.model_fields)} cells; quote a cell that holds a comma")
    optional = {name for name, field in kind.model_fields.items() if not field.is_required()}
    return {name: text for name, text in cells.items() if text.strip() or name not in optional}
