"""Published end-to-end measurements on Hopper: rows that a fleet study can start from without a GPU."""

from __future__ import annotations

from functools import lru_cache
from typing import Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from tokenwatt.reference.facts import Grade, Text, reference_folder
from tokenwatt.reference.ranges import Range
from tokenwatt.reference.tables import Row, read_rows

PUBLISHED_FILE = "published.csv"


class PublishedRow(Row):
    """One operating point that somebody else measured."""

    row_id: Text
    """The row's own name."""
    system: Text
    """Accelerator system."""
    model: Text
    """Model as its publisher calls it."""
    architecture: Text
    """Folder under workloads/models/ with its shape."""
    dtype: Text
    """Precision of weights and KV cache."""
    engine: Text
    """Serving engine."""
    workload: Text
    """What was asked, by the publisher's name."""
    isl: PositiveFloat
    """Mean prompt length, tokens; our assumption where the source gives none (see note)."""
    isl_low: PositiveFloat
    """Low end of it, tokens."""
    isl_high: PositiveFloat
    """High end of it, tokens."""
    osl: PositiveFloat
    """Mean output length, tokens."""
    concurrency: PositiveInt
    """Requests kept in flight."""
    running: PositiveFloat
    """Mean running batch, requests."""
    gpus: PositiveInt
    """GPUs of the replica."""
    output_tokens_per_s_per_gpu: PositiveFloat | None = None
    """Generated tokens per second and GPU, token/s."""
    tpot_s: PositiveFloat | None = None
    """Time per output token, median, s."""
    gpu_power_w: PositiveFloat | None = None
    """Board power per GPU, mean over the steady window, W."""
    source: Text
    """Where it was published."""
    grade: Grade
    """How it came to us."""
    note: str = ""
    """What the reader has to know."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.isl_low <= self.isl <= self.isl_high:
            raise ValueError(f"needs isl_low <= isl <= isl_high, got {self.isl_low}, {self.isl}, {self.isl_high}")
        return self

    @property
    def isl_range(self) -> Range:
        """Prompt length as a range, tokens."""
        return Range(self.isl_low, self.isl, self.isl_high)


@lru_cache(maxsize=1)
def load_published() -> dict[str, PublishedRow]:
    """The shipped rows by `row_id`."""
    rows = read_rows(reference_folder() / PUBLISHED_FILE, PublishedRow, key=("row_id",))
    return {row.row_id: row for row in rows}
