"""Rows that were measured in, scores of the predictor in every way that it can be tried out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tokenwatt.perf_model.cases import Cases, is_excluded, measured_columns
from tokenwatt.perf_model.fit import Fit, fit_rows, shipped_fit
from tokenwatt.perf_model.leave_out import LeftOut, predict_left_out
from tokenwatt.perf_model.predict import predict_cases, predict_from_specs
from tokenwatt.perf_model.predictions import answer
from tokenwatt.perf_model.score import Scores, labels_of, score
from tokenwatt.perf_model.scoring_run import KnownRows, fitted_and_scored, score_all


@dataclass(frozen=True, slots=True)
class Trials:
    """Scores on one table of rows."""

    fit: Fit
    cases: Cases
    """Those that the table does not exclude."""
    with_tables: Scores
    with_excluded: Scores | None
    """The same with all rows; None where the table excludes none."""
    from_specs: Scores
    """By a fit that takes the generation of each case as never measured at its operators."""
    baselines: dict[str, Scores]
    left_out: dict[LeftOut, Scores]
    """Each row by a fit on all others but those of its GPU, or of its model family."""
    unseen: Scores | None
    """Each row by a fit on the known rows without its family; None where those are of one family or there are none."""
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
    answers = answer(cases, lambda valid: predict_cases(valid, fit))
    scored = score_all(cases, table, answers, known, python, with_aiconfigurator)
    fair, keep = cases.only(~is_excluded(table)), ~is_excluded(table)
    labels, measured = labels_of(fair), measured_columns(table)[keep]
    own = KnownRows.of(cases, table)
    pool = KnownRows.joined([part for part in (known, own) if len(part.cases)]).rows

    def without(by: LeftOut, rows: pd.DataFrame) -> Scores:
        return score(labels, measured, predict_left_out(fair, rows, by, fit_rows, predict_cases))

    return Trials(
        fit=fit,
        cases=fair,
        with_tables=scored.own,
        with_excluded=scored.with_excluded,
        from_specs=score(labels, measured, answer(fair, lambda valid: predict_from_specs(valid, fit))),
        baselines=scored.baselines,
        left_out={"gpu": without("gpu", pool), "model": without("model", pool)},
        unseen=without("model", known.rows) if known.cases["family"].nunique() > 1 else None,
        fitted_and_scored=fitted_and_scored(known, fair),
    )
