"""What a predictor answers: five quantities with an interval each, how they were found, and what was refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd

from tokenwatt import store
from tokenwatt.errors import UserError
from tokenwatt.perf_model.cases import NUMERIC, Cases

QUANTITIES = ("output_tokens_per_s_per_gpu", "tpot_s", "ttft_s", "gpu_power_w", "joules_per_output_token")
"""token/s per GPU, s, s, W of a GPU's board, J of board energy per output token with prefill inside."""
OK, REFUSED, UNSUPPORTED = "ok", "refused", "unsupported"
"""Status of a row: predicted; refused for what is wrong with the case; not what a baseline can do."""
Z80 = NormalDist().inv_cdf(0.9)
"""Standard deviations from the middle of a normal distribution to either end of what holds 80 % of it."""
ENDS = ("", "_low", "_high")
PREDICTED = tuple(f"predicted_{quantity}{end}" for quantity in QUANTITIES for end in ENDS)
"""Central value and ends of the 80 % interval of each quantity."""
ANSWERED = (*PREDICTED, "method", "status", "reason", "assumptions")

Predictor = Callable[[pd.DataFrame], pd.DataFrame]
"""Valid cases (`check_cases`) in, a frame of the same index with the columns `ANSWERED` out."""


def empty_answers(index: pd.Index, status: str = OK, method: str = "") -> pd.DataFrame:
    """Rows of `ANSWERED` without numbers."""
    numbers = pd.DataFrame(np.nan, index=index, columns=list(PREDICTED), dtype="float64")
    return numbers.assign(method=method, status=status, reason="", assumptions="")


def answer(cases: Cases, predict: Predictor) -> pd.DataFrame:
    """Ask for the valid cases, and put the others' refusals between the answers: a row for each given case."""
    answers = empty_answers(cases.given.index, REFUSED)
    answers["reason"] = pd.Series(cases.refused, dtype="object").reindex(answers.index).fillna("")
    if len(cases.valid):
        answers.loc[cases.valid.index, list(ANSWERED)] = _checked(predict(cases.valid), cases.valid.index)
    return answers


def _checked(found: pd.DataFrame, index: pd.Index) -> pd.DataFrame:
    """A predictor's answers, which must be those of its cases: never numbers without order or sign."""
    if not found.index.equals(index):
        raise ValueError("a predictor must answer each case, in order")
    for quantity in QUANTITIES:
        central, low, high = (found[f"predicted_{quantity}{end}"] for end in ENDS)
        wrong = (found["status"] == OK) & central.notna() & ~((low > 0) & (low <= central) & (central <= high))
        if wrong.any():
            case = wrong.idxmax()
            raise ValueError(f"{quantity} of case {case} must have 0 < low <= central <= high, got {low[case]:g}, ...")
    return found[list(ANSWERED)]


def over_all(answers: pd.DataFrame, index: pd.Index) -> pd.DataFrame:
    """A baseline's answers to valid cases as those to all given ones: the refused ones are not supported."""
    others = index.difference(answers.index, sort=False)
    return pd.concat([answers, empty_answers(others, UNSUPPORTED)]).loc[index] if len(others) else answers


def joined(given: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """The given columns, and the answers after them; answers of an earlier prediction among the given are replaced."""
    return pd.concat([given.drop(columns=[name for name in ANSWERED if name in given.columns]), answers], axis=1)


def write_predictions(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV or parquet, by its suffix, in one step.

    Raises:
        UserError: another suffix, or the folder cannot be written to.
    """
    check_suffix(path)
    if path.suffix.lower() == ".csv":
        return store.write_whole(path, lambda file: table.to_csv(file, index=False))
    typed = table.assign(**{name: _typed(table[name]) for name in table.columns})
    return store.write_whole(path, lambda file: typed.to_parquet(file, index=False))


def check_suffix(path: Path) -> None:
    """Whether a table can be written under that name.

    Raises:
        UserError: it ends neither in .csv nor in .parquet.
    """
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise UserError(f"{path}: a table of predictions ends in .csv or .parquet")


def _typed(column: pd.Series) -> pd.Series:
    """A column of one type, as parquet needs it: numbers where every cell of a column of numbers is one, else text."""
    if column.dtype != "object":
        return column
    numbers = pd.to_numeric(column, errors="coerce") if column.name in NUMERIC else None
    if isinstance(numbers, pd.Series) and numbers.isna().equals(column.isna()):
        return numbers
    return column.map(lambda cell: None if pd.isna(cell) else str(cell))
