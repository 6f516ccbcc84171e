"""A Fact is one number from outside: value, low, high, unit, year, source, grade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, PositiveFloat, model_validator

from tokenwatt.errors import UserError
from tokenwatt.reference.ranges import Range
from tokenwatt.reference.tables import Row, read_rows

FACT_FILES = ("hardware.csv", "economics.csv")
ROUNDING = 1e-9


class Grade(StrEnum):
    """How a number came to us, the best first."""

    MEASURED = "measured"
    DATASHEET = "datasheet"
    SECONDARY = "secondary"
    ANALYST = "analyst"
    PRESS = "press"
    MEMORY = "memory"
    ASSUMPTION = "assumption"

    @property
    def meaning(self) -> str:
        """The grade in words, with the rule for its range."""
        return _RULES[self].meaning

    @property
    def least_spread(self) -> float:
        """How far low and high lie from the value at least, as a fraction of it."""
        return _RULES[self].least_spread


@dataclass(frozen=True, slots=True)
class _Rule:
    meaning: str
    least_spread: float


_RULES = {
    Grade.MEASURED: _Rule("Measured and published with its set-up. Range: as reported.", 0.0),
    Grade.DATASHEET: _Rule("Read in the maker's own data sheet. Range: none.", 0.0),
    Grade.SECONDARY: _Rule(
        "A copy of a data sheet, or a benchmark's system description. Range: none where copies agree, else their span.",
        0.0,
    ),
    Grade.ANALYST: _Rule(
        "An analyst's estimate. Range: the span of its dated copies, at least 10 % each way; "
        "a factor of 1.29 each way where there is one copy, the largest step seen between two.",
        0.10,
    ),
    Grade.PRESS: _Rule("Announced, and read in the press. Range: at least 15 % each way.", 0.15),
    Grade.MEMORY: _Rule("Remembered, with no document at hand. Range: at least 30 % each way.", 0.30),
    Grade.ASSUMPTION: _Rule(
        "Nobody published it: our choice. Range: what a reader could reasonably hold instead.", 0.10
    ),
}

Text = Annotated[str, Field(min_length=1)]


class Fact(Row):
    """One number from outside. A point without a range is spread by the rule of its grade."""

    subject: str
    """System that the number describes; empty for a number about the world."""
    name: Text
    """Quantity, ending in its unit where it has one."""
    value: PositiveFloat
    """Central value, in `unit`."""
    low: PositiveFloat
    """Low end of the range, in `unit`."""
    high: PositiveFloat
    """High end of the range, in `unit`."""
    unit: Text
    """UCUM-like symbol; SI, money in USD of `year`."""
    year: Annotated[int, Field(ge=2000, le=2100)]
    """Year of the source, and of the currency."""
    source: Text
    """Where the number was read."""
    grade: Grade
    """How it came to us."""
    note: str = ""
    """What the reader has to know, such as the boundary of a power figure."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"needs low <= value <= high, got {self.low:g}, {self.value:g}, {self.high:g}")
        spread = self.grade.least_spread * self.value * (1 - ROUNDING)
        if self.value - self.low < spread or self.high - self.value < spread:
            raise ValueError(
                f"grade {self.grade.value} needs low and high at least {self.grade.least_spread:.0%} from value, "
                f"got {self.low:g}, {self.value:g}, {self.high:g}"
            )
        return self

    @property
    def range(self) -> Range:
        """The number as a range."""
        return Range(self.low, self.value, self.high)

    def cite(self) -> str:
        """One line: what it is, its range, its grade and where it was read."""
        span = f"{self.value:g}" if self.low == self.high else f"{self.value:g} ({self.low:g} to {self.high:g})"
        return (
            f"{self.subject} {self.name} = {span} {self.unit} [{self.grade.value}, {self.year}] {self.source}".lstrip()
        )


@dataclass(frozen=True)
class FactBook:
    """Every Fact, found by subject and name."""

    facts: tuple[Fact, ...]

    @cached_property
    def _index(self) -> dict[tuple[str, str], Fact]:
        return {(fact.subject, fact.name): fact for fact in self.facts}

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """Systems that have a Fact, in the order of the files."""
        return tuple(dict.fromkeys(fact.subject for fact in self.facts if fact.subject))

    def has(self, subject: str, name: str) -> bool:
        """Whether there is a Fact `name` of `subject`."""
        return (subject, name) in self._index

    def get(self, subject: str, name: str, unit: str) -> Fact:
        """The Fact `name` of `subject`, in `unit`.

        Raises:
            UserError: there is none, or it is in another unit. There are no defaults.
        """
        fact = self._index.get((subject, name))
        if fact is None:
            raise UserError(f"no Fact {name!r} for {subject!r}; add a row with its source to {' or '.join(FACT_FILES)}")
        if fact.unit != unit:
            raise UserError(f"Fact {name!r} of {subject!r} must be in {unit!r}, got {fact.unit!r}")
        return fact


def reference_folder() -> Path:
    """Folder of the shipped CSV files."""
    return Path(str(files("tokenwatt.reference")))


def read_facts(paths: Sequence[Path]) -> FactBook:
    """Read Fact rows from CSV files.

    Raises:
        UserError: a row that is not a Fact, with file and line, or one that stands in two files.
    """
    facts: dict[tuple[str, str], Fact] = {}
    for path in paths:
        for fact in read_rows(path, Fact, key=("subject", "name")):
            if (fact.subject, fact.name) in facts:
                raise UserError(f"{path.name}: {fact.subject} {fact.name} stands in another file already")
            facts[fact.subject, fact.name] = fact
    return FactBook(tuple(facts.values()))


@lru_cache(maxsize=1)
def load_facts() -> FactBook:
    """The shipped Facts."""
    return read_facts([reference_folder() / name for name in FACT_FILES])
