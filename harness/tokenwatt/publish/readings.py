"""Meter readings fit to be committed: a few megabytes, thinned evenly where there are more, and by how much."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

MAX_POWER_BYTES = 4 * 2**20
"""Of power.parquet: more than this in each study would make the repository heavy to clone."""
MAX_REQUESTS_BYTES = 2**20
"""Of requests.parquet, whose sums stand in the rows already."""


def size_bytes(table: pa.Table) -> int:
    """Bytes of the table as a parquet file."""
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.tell()


def thinned(readings: pa.Table, max_bytes: int = MAX_POWER_BYTES) -> tuple[pa.Table, int]:
    """Every nth reading of each window and meter, and n: the least power of two whose file has at most `max_bytes`.

    The first reading of each window and meter is always among them, so no window is left without any.
    """
    place = readings.select(["measurement_id", "source"]).to_pandas().groupby(["measurement_id", "source"]).cumcount()
    kept, every = readings, 1
    while size_bytes(kept) > max_bytes and every <= len(readings):
        every *= 2
        kept = readings.filter(pa.array(place.to_numpy() % every == 0))
    return kept, every
