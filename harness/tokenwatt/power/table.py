"""Readings as rows of `PowerRecord`, from columns to columns: no object is made of a row."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from tokenwatt.power.log import QUANTITIES, PowerReadings
from tokenwatt.record import PowerRecord
from tokenwatt.schema import arrow_schema

PART = 2**17
"""Rows of a part: some 25 MB."""


def power_tables(readings: PowerReadings, run_id: str, measurement_id: str) -> Iterator[pa.Table]:
    """Rows of a measurement in parts, source by source, each source's in the order in which they were taken."""
    schema = arrow_schema(PowerRecord)
    for source, of_source in readings.items():
        for part in of_source.parts(PART):
            texts = {"source": source, "run_id": run_id, "measurement_id": measurement_id}
            columns = {name: pa.repeat(text, len(part)) for name, text in texts.items()}
            for name in QUANTITIES:
                columns[name] = pa.array(part.column(name), from_pandas=True).cast(schema.field(name).type)
            sets, places = part.throttle_sets()
            columns["throttle_reasons"] = pa.array(sets, schema.field("throttle_reasons").type).take(pa.array(places))
            yield pa.table(columns, schema)
