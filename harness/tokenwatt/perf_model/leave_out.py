"""Predictions of rows by a fit that has seen nothing of their GPU, or of their model family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pandas as pd

from tokenwatt.errors import UserError
from tokenwatt.perf_model.cases import Cases
from tokenwatt.perf_model.predictions import answer

LeftOut = Literal["gpu", "model"]
COLUMN_OF: dict[LeftOut, str] = {"gpu": "system", "model": "family"}


def predict_left_out(
    cases: Cases,
    rows: pd.DataFrame,
    by: LeftOut,
    fit_rows: Callable[[pd.DataFrame], Any],
    predict_cases: Callable[[pd.DataFrame, Any], pd.DataFrame],
) -> pd.DataFrame:
    """Answers for all given cases, each by the fit on `rows` without those of its GPU or family.

    rows: what may be fitted on, valid rows with their measured columns; the cases themselves may be among them.

    Raises:
        UserError: nothing is left to fit on.
    """
    column = COLUMN_OF[by]

    def predict(valid: pd.DataFrame) -> pd.DataFrame:
        parts = []
        for name, part in valid.groupby(column, sort=False):
            others = rows[rows[column] != name]
            if others.empty:
                raise UserError(f"without {name} no rows are left to fit on; give more with --fit")
            parts.append(predict_cases(part, fit_rows(others)))
        return pd.concat(parts).loc[valid.index]

    return answer(cases, predict)
