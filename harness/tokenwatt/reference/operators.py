"""Fitted parameters of operator curves: how long a matmul, an attention or an all-reduce takes on a GPU."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, Self

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from tokenwatt.reference.facts import Text, reference_folder
from tokenwatt.reference.tables import Row, read_rows

OPERATOR_FILE = "operators.csv"


class OperatorRow(Row):
    """One parameter of one curve, fitted on measured times."""

    subject: Text
    """System, as in hardware.csv."""
    engine: Text
    """Engine whose kernels were measured."""
    operator: Text
    """Operator; a collective has the number of GPUs behind a dot."""
    dtype: Text
    """Precision of weights, or of the cache."""
    parameter: Text
    """Parameter of the curve; `log_sd` and `median_error` say how far measured times lie from it."""
    value: PositiveFloat
    """Fitted value, in `unit`."""
    low: NonNegativeFloat
    """Low end of its 80 % interval, in `unit`."""
    high: PositiveFloat
    """High end of its 80 % interval, in `unit`."""
    unit: Text
    """SI; 1 for a ratio."""
    rows: PositiveInt
    """Measured times that the fit used."""
    source: Text
    """Table that was fitted: package==version:path."""
    grade: Literal["measured"]
    """How it came to us."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"needs low <= value <= high, got {self.low:g}, {self.value:g}, {self.high:g}")
        return self


@lru_cache(maxsize=1)
def load_operator_rows() -> tuple[OperatorRow, ...]:
    """The shipped rows, in the order of the file."""
    key = ("subject", "engine", "operator", "dtype", "parameter")
    return tuple(read_rows(reference_folder() / OPERATOR_FILE, OperatorRow, key=key))
