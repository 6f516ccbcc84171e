"""Predictions made before measuring, against what was measured: each names the rows that decide it.

`predictions.csv` stands in the folder of the study and is written by hand, one prediction a line:

    quantity,unit,predicted,low,high,made_at,measured
    cuBLAS over ours,1,1.0,0.9,1.1,2026-10-01,geomean kernels.time_over_ours family=matmul.dense contender=cublas

`measured` is a rule, a column, and the values that other columns have in the rows that count:

    RULE TABLE.COLUMN [COLUMN=VALUE ...]

RULE is `only` (one row exactly), `mean`, `geomean`, `min` or `max`. TABLE is `measurements`, `results`, `kernels` or
`closure`, with its metrics; rows of `results` and `closure` have the columns of their point too, and those of `closure`
a `share` of their window's energy. VALUE is text as in the table, quoted where it has spaces, or `null`. Of a point or
problem that several runs measured, the newest run counts, unless the prediction names a `run_id`.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pandas as pd
from pydantic import field_validator, model_validator

from tokenwatt.errors import UserError, unknown_name
from tokenwatt.publish.newest import POINT, PROBLEM, newest
from tokenwatt.publish.numbers import geometric_mean
from tokenwatt.reference.tables import Row, read_rows

FILE = "predictions.csv"
RULES = ("only", "mean", "geomean", "min", "max")
_FORM = "RULE TABLE.COLUMN [COLUMN=VALUE ...]"
_KEYS = {"measurements": POINT, "results": (*POINT, "quantity"), "closure": POINT, "kernels": PROBLEM}


class Prediction(Row):
    """One line of predictions.csv."""

    quantity: str
    """What is predicted, in words."""
    unit: str
    """Its unit; `1` for a plain number."""
    predicted: float
    """The prediction."""
    low: float
    """Lower end of what was thought likely."""
    high: float
    """Upper end."""
    made_at: datetime
    """When it was made; UTC unless it says otherwise."""
    measured: str
    """Which rows decide it."""

    @field_validator("made_at")
    @classmethod
    def _in_utc(cls, value: datetime) -> datetime:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low <= self.predicted <= self.high:
            raise ValueError(f"low <= predicted <= high must hold, got {self.low}, {self.predicted}, {self.high}")
        return self


@dataclass(frozen=True, slots=True)
class Outcome:
    """A prediction and what the rows say of it."""

    prediction: Prediction
    measured: float | None
    """None where no row decides it."""
    rows: int
    """Rows behind it."""
    is_early: bool
    """Whether it was made before the first of those rows was measured."""

    @property
    def off(self) -> float | None:
        """(measured - predicted) / |predicted|; None without a measurement, or for a prediction of 0."""
        if self.measured is None or self.prediction.predicted == 0:
            return None
        return (self.measured - self.prediction.predicted) / abs(self.prediction.predicted)

    @property
    def is_inside(self) -> bool | None:
        """Whether the measured value lies between both ends."""
        return None if self.measured is None else self.prediction.low <= self.measured <= self.prediction.high


def read(folder: Path) -> tuple[Prediction, ...]:
    """The predictions of a study, in their order; none without the file.

    Raises:
        UserError: a bad line.
    """
    path = folder / FILE
    return tuple(read_rows(path, Prediction, ("quantity",))) if path.is_file() else ()


def outcome(prediction: Prediction, tables: Mapping[str, pd.DataFrame]) -> Outcome:
    """What the rows of a study say of a prediction.

    tables: name -> rows with `run_id`, `measured_at` and the columns of `_KEYS`.

    Raises:
        UserError: `measured` cannot be read, names what does not exist, or `only` finds several rows.
    """
    where = f"{FILE}: {prediction.quantity!r}"
    rule, table, column, wanted = _parsed(prediction.measured, where)
    if table not in _KEYS:
        raise UserError(f"{where}: {unknown_name('table', table, _KEYS)}")
    rows = tables[table]
    for name in (column, *wanted):
        if name not in rows:
            raise UserError(f"{where}: {unknown_name(f'column of {table}', name, map(str, rows.columns))}")
    if not pd.api.types.is_numeric_dtype(rows[column]):
        raise UserError(f"{where}: {table}.{column} holds no numbers; name a column that does")
    if "run_id" not in wanted:
        rows = newest(rows, _KEYS[table])
    for name, value in wanted.items():
        rows = rows[rows[name].map(_text) == value]
    rows = rows[rows[column].notna()]
    if rows.empty:
        return Outcome(prediction, None, 0, is_early=True)
    value = _by_rule(rule, rows[column].astype(float).tolist(), where)
    return Outcome(prediction, value, len(rows), bool(prediction.made_at < rows["measured_at"].min()))


def _parsed(text: str, where: str) -> tuple[str, str, str, dict[str, str]]:
    """Rule, table, column, and the values of other columns."""
    try:
        rule, place, *conditions = shlex.split(text)
        table, column = place.split(".")
        wanted = dict(_pair(condition) for condition in conditions)
    except ValueError:
        raise UserError(f"{where}: measured must be {_FORM}, got {text!r}") from None
    if rule not in RULES:
        raise UserError(f"{where}: {unknown_name('rule', rule, RULES)}")
    return rule, table, column, wanted


def _pair(condition: str) -> tuple[str, str]:
    name, value = condition.split("=", 1)
    return name, value


def _text(value: Any) -> str:
    """A cell as people write it."""
    if value is None or pd.isna(value):
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _by_rule(rule: str, values: list[float], where: str) -> float:
    if rule == "only":
        if len(values) > 1:
            raise UserError(f"{where}: `only` needs one row, found {len(values)}; add a COLUMN=VALUE, or take `mean`")
        return values[0]
    if rule == "geomean":
        if min(values) <= 0:
            raise UserError(f"{where}: `geomean` needs positive values, found {min(values)}; take `mean`")
        return geometric_mean(values)
    return {"mean": lambda: math.fsum(values) / len(values), "min": lambda: min(values), "max": lambda: max(values)}[
        rule
    ]()
