"""Published speeds of one system over another's, where their own figures are not needed."""

from __future__ import annotations

from functools import lru_cache

from pydantic import PositiveFloat

from tokenwatt.reference.facts import Grade, Text, reference_folder
from tokenwatt.reference.tables import Row, read_rows

RATIOS_FILE = "published_ratios.csv"


class PublishedRatio(Row):
    """Speed per GPU of `system` over that of `against`, same benchmark and scenario."""

    model: Text
    """Model as its publisher calls it."""
    round: Text
    """Benchmark and its release."""
    scenario: Text
    """What was asked, by the publisher's name."""
    system: Text
    """Faster system, by its Facts."""
    against: Text
    """The other one."""
    ratio: PositiveFloat
    """Output tokens/s per GPU of `system` over that of `against`."""
    tpot_limit_s: PositiveFloat | None = None
    """Limit of time per output token, s; none where the scenario has none."""
    ttft_limit_s: PositiveFloat | None = None
    """Limit of time to first token, s."""
    source: Text
    """Where it was published."""
    grade: Grade
    """How it came to us."""
    note: str = ""
    """What the reader has to know."""


@lru_cache(maxsize=1)
def load_ratios() -> tuple[PublishedRatio, ...]:
    """The shipped rows."""
    key = ("model", "round", "scenario", "system", "against")
    return tuple(read_rows(reference_folder() / RATIOS_FILE, PublishedRatio, key=key))
