"""From the columns of an older schema version to those of this one, step by step; files stay as they were written."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from tokenwatt.record import SCHEMA_VERSION, Measurement, Record, RequestRecord, RequestStatus, Result
from tokenwatt.schema import arrow_schema

Migration = Callable[[pa.Table], pa.Table]


def migrate(table: pa.Table, kind: type[Record], version: int) -> pa.Table:
    """A table of an older version with the columns of this one; those that were not known then are null, or empty."""
    for step in range(version, SCHEMA_VERSION):
        change = MIGRATIONS[step].get(kind.grain)
        table = table if change is None else change(table)
    if version < SCHEMA_VERSION:
        for field in arrow_schema(kind):
            if field.name not in table.column_names and (field.nullable or pa.types.is_list(field.type)):
                unknown = [None if field.nullable else []] * len(table)
                table = table.append_column(field, pa.array(unknown, field.type))
    return table


def _closed(table: pa.Table) -> pa.Table:
    """Version 1 had closed loops alone, begun at once."""
    rows = len(table)
    table = table.append_column("load", pa.array(["closed"] * rows, pa.string()))
    return (
        table.append_column("ramp_s", pa.array([0.0] * rows, pa.float64())) if "seed" in table.column_names else table
    )


def _measurements(table: pa.Table) -> pa.Table:
    """Version 1 knew one way to fail, engines that would not serve a request, and checked no answers."""
    table = table.rename_columns({"requests_refused": "requests_failed"})
    old, new = "requests_refused", "requests_failed"
    reasons = [[new if reason == old else reason for reason in row] for row in table["reasons"].to_pylist()]
    place = table.column_names.index("reasons")
    table = table.append_column("accuracy_status", pa.array(["not_checked"] * len(table), pa.string()))
    return _closed(table).set_column(place, table.field(place), pa.array(reasons, table.schema.field(place).type))


def _statuses(table: pa.Table) -> pa.Table:
    """Version 1 had one turn in a conversation, and its requests went out when they were due or nobody knew."""
    complete, cut = RequestStatus.COMPLETE.value, RequestStatus.CUT.value
    ended = pa.array([complete if is_complete else cut for is_complete in table["is_complete"].to_pylist()])
    table = table.drop_columns("is_complete").append_column("status", ended)
    table = table.append_column("due_s", table["sent_s"]).append_column("conversation", table["request_index"])
    return table.append_column("turn", pa.array([0] * len(table), pa.int64()))


MIGRATIONS: dict[int, dict[str, Migration]] = {
    1: {Measurement.grain: _measurements, Result.grain: _closed, RequestRecord.grain: _statuses},
}
"""Schema version -> what its tables need to become those of the next one, by grain."""
