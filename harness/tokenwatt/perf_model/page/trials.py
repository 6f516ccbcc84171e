"""Rows that were measured in, scores of the predictor in every way that it can be tried out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tokenwatt.perf_model.cases import Cases, measured_columns
from tokenwatt.perf_model.fit import Fit, fit_rows, shipped_fit
from tokenwatt.perf_model.leave_out import LeftOut, predict_left_out
from tokenwatt.perf_model.predict import predict_cases, predict_from_specs
from tokenwatt.perf_model.predictions import answer
from tokenwatt.perf_model.score import Scores, labels_of, score
from tokenwatt.perf_model.scoring_run import KnownRows, fitted_and_scored, score_all

_OWN = "prediction"


@dataclass(frozen=True, slots=True)
class Trials:
    """Scores on one table of rows."""

    fit: Fit
    cases: Cases
    with_tables: Scores
    from_specs: Scores
    """By a fit that takes the generation of each case as never measured at its operators."""
    baselines: dict[str, Scores]
    left_out: dict[LeftOut, Scores]
    """Each row by a fit on all others but those of its GPU, or of its model family."""
    fitted_and_scored: int
    """Rows that were fitted on too: of those `with_tables` says nothing new."""


def run_trials(
    cases: Cases, table: pd.DataFrame, known: KnownRows, python: Path | None, with_aiconfigurator: bool
) -> Trials:
    """Try the predictor on the rows of `table`; known: what it is fitted on, none for the shipped fit.

    Raises:
        UserError: rows of one GPU or one model alone, so that nothing is left once it is left out.
    """
    fit = fit_rows(known.rows) if len(known.cases) else shipped_fit()
    labels, measured = labels_of(cases), measured_columns(table)
    answers = answer(cases, lambda valid: predict_cases(valid, fit))
    scores = score_all(_OWN, cases, table, answers, known, python, with_aiconfigurator)
    own = KnownRows.of(cases, table)
    pool = KnownRows.joined([part for part in (known, own) if len(part.cases)]).rows
    by: tuple[LeftOut, ...] = ("gpu", "model")
    return Trials(
        fit=fit,
        cases=cases,
        with_tables=scores.pop(_OWN),
        from_specs=score(labels, measured, answer(cases, lambda valid: predict_from_specs(valid, fit))),
        baselines=scores,
        left_out={
            name: score(labels, measured, predict_left_out(cases, pool, name, fit_rows, predict_cases)) for name in by
        },
        fitted_and_scored=fitted_and_scored(known, cases),
    )
