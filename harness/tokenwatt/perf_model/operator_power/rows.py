"""Fitted parameters of power as rows: one row, one number, its range, and where it came from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, NonNegativeFloat, NonNegativeInt, model_validator

from tokenwatt.errors import UserError
from tokenwatt.reference.facts import Grade, reference_folder
from tokenwatt.reference.tables import Row, read_rows

FILE = "operator_power.csv"

Parameter = Literal[
    "static_w",
    "busy_moe_w",
    "busy_context_attention_w",
    "busy_generation_attention_w",
    "pj_per_flop",
    "pj_per_byte",
    "cap_fraction",
    "error_log_sd",
    "pj_per_link_byte",
    "clock_exponent",
    "generation_log_sd",
]
UNITS: dict[str, str] = {
    "static_w": "W",
    "busy_moe_w": "W",
    "busy_context_attention_w": "W",
    "busy_generation_attention_w": "W",
    "pj_per_flop": "pJ/flop",
    "pj_per_byte": "pJ/byte",
    "cap_fraction": "1",
    "error_log_sd": "1",
    "pj_per_link_byte": "pJ/byte",
    "clock_exponent": "1",
    "generation_log_sd": "1",
}
assert set(UNITS) == set(get_args(Parameter))


class PowerRow(Row):
    """One parameter of `model.demand_w`. A range is where 80 % of its uncertainty lies."""

    subject: str
    """System; empty for a number that holds for every one."""
    parameter: Parameter
    """Which number."""
    dtype: str = ""
    """Number format, of pj_per_flop."""
    value: NonNegativeFloat
    """Central value, in `unit`."""
    low: NonNegativeFloat
    """Tenth percentile, in `unit`."""
    high: NonNegativeFloat
    """Ninetieth percentile, in `unit`."""
    unit: Annotated[str, Field(min_length=1)]
    """UCUM-like symbol."""
    rows: NonNegativeInt
    """Measured operators that it was fitted on; 0 for an assumption."""
    source: Annotated[str, Field(min_length=1)]
    """Where the measurements were read, or why the assumption."""
    grade: Grade
    """How it came to us."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"needs low <= value <= high, got {self.low:g}, {self.value:g}, {self.high:g}")
        if self.unit != UNITS[self.parameter]:
            raise ValueError(f"{self.parameter} must be in {UNITS[self.parameter]!r}, got {self.unit!r}")
        if bool(self.dtype) != (self.parameter == "pj_per_flop"):
            raise ValueError(f"pj_per_flop and nothing else has a dtype, got {self.parameter} {self.dtype!r}")
        return self


Name = tuple[Parameter, str]
"""Parameter and dtype, which is empty for all but pj_per_flop."""
Rows = dict[Name, PowerRow]
"""Rows of one subject by parameter and dtype."""


def read_power_rows(path: Path) -> list[PowerRow]:
    """Read the rows of `path`.

    Raises:
        UserError: a row that is none, with file and line, or one that stands twice.
    """
    return read_rows(path, PowerRow, key=("subject", "parameter", "dtype"))


@lru_cache(maxsize=1)
def load_power_rows() -> tuple[PowerRow, ...]:
    """The shipped rows."""
    return tuple(read_power_rows(reference_folder() / FILE))


def rows_of(rows: Sequence[PowerRow], subject: str) -> Rows:
    """Rows of one subject; empty where there are none."""
    return {(row.parameter, row.dtype): row for row in rows if row.subject == subject}


def one(rows: Rows, parameter: Parameter, dtype: str = "") -> PowerRow:
    """The row of `parameter`.

    Raises:
        UserError: there is none.
    """
    if (parameter, dtype) not in rows:
        raise UserError(f"{FILE} has no {parameter} {dtype}".rstrip() + "; write it anew with operator_power.refit")
    return rows[parameter, dtype]
