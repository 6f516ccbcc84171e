"""Arrow schemas of the records: types, and unit and description in each field's metadata."""

from __future__ import annotations

import types
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pyarrow as pa

from tokenwatt.record import SCHEMA_VERSION, Record
from tokenwatt.units import Unit


def unit_of(kind: type[Record], column: str) -> str | None:
    """Unit symbol of a column; None for text, flags, times and lists."""
    field = kind.model_fields[column]
    for note in (*field.metadata, *(note for part in get_args(field.annotation) for note in _notes(part))):
        if isinstance(note, Unit):
            return note.symbol
    return None


def _notes(annotation: Any) -> tuple[Any, ...]:
    return annotation.__metadata__ if get_origin(annotation) is Annotated else ()


def arrow_schema(kind: type[Record]) -> pa.Schema:
    """Arrow schema of a table: each field carries its description and, if numeric, its unit."""
    fields = []
    for name, field in kind.model_fields.items():
        metadata = {"description": field.description or ""}
        unit = unit_of(kind, name)
        if unit is not None:
            metadata["unit"] = unit
        nullable = type(None) in get_args(field.annotation)
        fields.append(pa.field(name, _arrow_type(field.annotation), nullable=nullable, metadata=metadata))
    return pa.schema(fields, metadata={"schema_version": str(SCHEMA_VERSION), "grain": kind.grain})


_ARROW_TYPES: dict[type, pa.DataType] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    datetime: pa.timestamp("us", tz="UTC"),
}


def _arrow_type(annotation: Any) -> pa.DataType:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _arrow_type(arguments[0])
    if origin in (Union, types.UnionType):
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        return _arrow_type(inner)
    if origin is tuple:
        return pa.list_(_arrow_type(arguments[0]))
    if origin is Literal or (isinstance(annotation, type) and issubclass(annotation, StrEnum)):
        return pa.string()
    return _ARROW_TYPES[annotation]
