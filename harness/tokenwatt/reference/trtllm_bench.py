"""How many requests a run of TensorRT-LLM's published throughput tables has: it ends, and is not full all the time."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from pydantic import PositiveInt

from tokenwatt.reference.facts import Grade, Text
from tokenwatt.reference.tables import Row, read_rows

SOURCE_SET = "trtllm"
"""What tables of cases call rows of these tables."""


class BenchRun(Row):
    """One shape of requests."""

    isl: PositiveInt
    """Tokens of every prompt."""
    osl: PositiveInt
    """Tokens of every answer."""
    num_requests: PositiveInt
    """Requests, all queued at the start."""
    source: Text
    """Where the numbers were read."""
    grade: Grade
    """How they came to us."""


@lru_cache(maxsize=1)
def load_trtllm_bench() -> dict[tuple[float, float], int]:
    """Requests of the shipped runs, by isl and osl."""
    path = Path(str(files("tokenwatt.reference"))) / "trtllm_bench.csv"
    return {(row.isl, row.osl): row.num_requests for row in read_rows(path, BenchRun, ("isl", "osl"))}
