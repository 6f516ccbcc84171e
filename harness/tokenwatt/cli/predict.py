"""The command of the predictor: cases in, predictions out, or their scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenwatt.cli.shared import Json
from tokenwatt.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from tokenwatt.perf_model.cases import Cases
    from tokenwatt.perf_model.fit import Fit
    from tokenwatt.perf_model.scoring_run import KnownRows
    from tokenwatt.perf_model.what_if import Change

_REASONS_SHOWN = 5


class Group(Enum):
    """What a fit may not have seen."""

    GPU = "gpu"
    MODEL = "model"


def predict(
    cases: Annotated[
        Path, typer.Argument(metavar="CASES", help="CSV or parquet: model and gpu, and what else is known.")
    ],
    case_id: Annotated[
        str | None,
        typer.Argument(metavar="[CASE_ID]", help="Which case --explain explains. Default: the first answered."),
    ] = None,
    fit: Annotated[
        list[Path] | None,
        typer.Option(
            "--fit", metavar="ROWS", help="Measured rows to fit on in place of the shipped fit; several times."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="CSV or parquet file to write.")] = None,
    score: Annotated[
        bool, typer.Option("--score", help="Score the predictions on the cases' measured columns, beside baselines.")
    ] = False,
    leave_out: Annotated[
        Group | None,
        typer.Option("--leave-out", help="Score each GPU, or model family, by a fit that has not seen it."),
    ] = None,
    specs_only: Annotated[
        bool,
        typer.Option("--specs-only", help="Predict as if nobody had measured operators on the GPU or its generation."),
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say of one case where its time and energy go, and what it rests on.")
    ] = False,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            metavar="NAME=FACTORx",
            help="Predict again with operations that much faster (attention.decode=1.1x, moe=2x, host=2x); several "
            "times. all=1.01x: what each one is worth.",
        ),
    ] = None,
    aiconfigurator: Annotated[
        Path | None,
        typer.Option(
            "--aiconfigurator", metavar="PYTHON", help="Interpreter that has aiconfigurator-core. Default: this one."
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--page", metavar="FOLDER", help="With --score: write the scores and a page for each system."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict speed, power and energy row by row, with 80 % intervals; with --score, say how good that is.

    A row that cannot be predicted is refused with its reason; the others are answered. Columns of measured values are
    never read for a prediction. Exit code 1 if every row is refused.
    """
    from tokenwatt.perf_model import predictions
    from tokenwatt.perf_model.cases import check_cases, read_table
    from tokenwatt.perf_model.scoring_run import KnownRows, fitted_and_scored, read_known
    from tokenwatt.store import check_place

    is_scored = score or leave_out is not None
    changes = _checked_views(explain, case_id, what_if or [], is_scored)
    if output is not None:
        predictions.check_suffix(output)
        check_place(output, "--output")
    elif not (is_scored or as_json or explain or changes):
        raise UserError("predict needs a place for its answers: -o OUT.csv, -o OUT.parquet, --json or --score")
    if aiconfigurator is not None and not is_scored:
        raise UserError("--aiconfigurator names a baseline of --score; add --score")
    if page is not None and (not score or leave_out is not None or specs_only):
        raise UserError("--page tries every way by itself: give it with --score, without --leave-out and --specs-only")
    table = read_table(cases)
    checked = check_cases(table)
    known, unused = read_known(fit or ())
    for path, reasons in unused.items():
        if reasons:
            _tell(f"{path}: {len(reasons)} rows cannot be fitted on", reasons.values())
    if fit and known.cases.empty:
        raise UserError("--fit: every row is refused or excluded; give others, or leave it out for the shipped fit")
    if page is not None:
        _write_page(page, checked, table, known, aiconfigurator)
    fitted = None
    if leave_out is not None:
        answers = _left_out(checked, known, KnownRows.of(checked, table), leave_out, specs_only)
    else:
        fitted = _fit(known)
        if left := len(known.cases) and len(known.cases) - fitted.rows:
            verb = "is" if left == 1 else "are"
            why = "as labelled, their model does not fit, leaves open how it ran, or was faster than its GPUs can be"
            typer.echo(f"{left} of {len(known.cases)} known rows {verb} not fitted on: {why}", err=True)
        answers = _answers(checked, fitted, specs_only)
    refused = answers[answers["status"] != predictions.OK]
    is_any_answered = len(refused) < len(answers)
    if output is not None and not (changes and is_any_answered):
        predictions.write_predictions(predictions.joined(checked.given, answers), output)
        typer.echo(f"written to {output}", err=True)
    _tell(f"{len(answers) - len(refused)} rows predicted, {len(refused)} refused", refused["reason"])
    if is_scored:
        if leave_out is None and (seen := fitted_and_scored(known, checked)):
            typer.echo(f"{seen} of the scored rows were fitted on; --leave-out hides them from the fit", err=True)
        _score(checked, table, answers, known, aiconfigurator, as_json)
    elif fitted is not None and (explain or changes):
        if is_any_answered:
            _show(checked, answers, fitted, specs_only, case_id, changes, output, as_json)
    elif as_json:
        typer.echo(predictions.joined(checked.given, answers).to_json(orient="records", indent=2))
    raise typer.Exit(0 if is_any_answered else 1)


def _checked_views(explain: bool, case_id: str | None, what_if: list[str], is_scored: bool) -> tuple[Change, ...]:
    """The changes of --what-if, where it and --explain may stand."""
    if case_id is not None and not explain:
        raise UserError(f"{case_id!r} names a case, but only --explain looks at one; add --explain")
    for option, is_given in (("--explain", explain), ("--what-if", bool(what_if))):
        if is_given and is_scored:
            raise UserError(f"{option} shows predictions, not scores: leave out --score and --leave-out")
    if explain and what_if:
        raise UserError("--explain and --what-if are two views: ask for one of them")
    if not what_if:
        return ()
    from tokenwatt.perf_model.what_if import parse_changes

    return parse_changes(what_if)


def _show(
    cases: Cases,
    answers: pd.DataFrame,
    fit: Fit,
    specs_only: bool,
    case_id: str | None,
    changes: tuple[Change, ...],
    output: Path | None,
    as_json: bool,
) -> None:
    from tokenwatt.cli.explain import explain_case, show_what_if

    if changes:
        show_what_if(cases, answers, fit, specs_only, changes, output, as_json)
    else:
        explain_case(cases, answers, fit, specs_only, case_id, as_json)


def _fit(known: KnownRows) -> Fit:
    """On the known rows, or the shipped one."""
    from tokenwatt.perf_model.fit import fit_rows, shipped_fit

    return fit_rows(known.rows) if len(known.cases) else shipped_fit()


def _answers(cases: Cases, fit: Fit, specs_only: bool) -> pd.DataFrame:
    """Answers to all given cases."""
    from tokenwatt.perf_model.predict import predict_cases, predict_from_specs
    from tokenwatt.perf_model.predictions import answer

    predict = predict_from_specs if specs_only else predict_cases
    return answer(cases, lambda valid: predict(valid, fit))


def _left_out(cases: Cases, known: KnownRows, own: KnownRows, leave_out: Group, specs_only: bool) -> pd.DataFrame:
    """Answers to all given cases, by fits that each have not seen a group."""
    from tokenwatt.perf_model.fit import fit_rows
    from tokenwatt.perf_model.leave_out import predict_left_out
    from tokenwatt.perf_model.predict import predict_cases, predict_from_specs
    from tokenwatt.perf_model.scoring_run import KnownRows

    predict = predict_from_specs if specs_only else predict_cases
    rows = KnownRows.joined([part for part in (known, own) if len(part.cases)]).rows
    return predict_left_out(cases, rows, leave_out.value, fit_rows, predict)


def _write_page(folder: Path, cases: Cases, table: pd.DataFrame, known: KnownRows, python: Path | None) -> None:
    from tokenwatt.perf_model.aiconfigurator import is_installed
    from tokenwatt.perf_model.page.trials import run_trials
    from tokenwatt.perf_model.page.write import page_files, write_pages
    from tokenwatt.store import check_place

    _check_measured(table)
    check_place(folder / "README.md", "--page")
    files = page_files(run_trials(cases, table, known, python, python is not None or is_installed()))
    write_pages(folder, files)
    typer.echo(f"{len(files)} files written to {folder}", err=True)


def _check_measured(table: pd.DataFrame) -> None:
    from tokenwatt.perf_model.cases import is_excluded, measured_columns

    if measured_columns(table)[~is_excluded(table)].isna().all(axis=None):
        raise UserError("nothing to score: no row that is not excluded has a measured value")


def _score(
    cases: Cases, table: pd.DataFrame, answers: pd.DataFrame, known: KnownRows, python: Path | None, as_json: bool
) -> None:
    from tokenwatt.perf_model.aiconfigurator import is_installed
    from tokenwatt.perf_model.scoring_run import score_all
    from tokenwatt.terminal import PREDICTOR, print_scores

    _check_measured(table)
    has_package = python is not None or is_installed()
    if not has_package:
        typer.echo("aiconfigurator-core is not installed, so that this baseline is left out", err=True)
    scored = score_all(cases, table, answers, known, python, has_package)
    if as_json:
        typer.echo(json.dumps(scored.as_json(PREDICTOR), indent=2))
    else:
        print_scores(scored)


def _tell(head: str, reasons: Iterable[str]) -> None:
    """A line on stderr, with the most frequent reasons."""
    counts = Counter(reasons).most_common()
    shown = [f"{count} x {reason}" for reason, count in counts[:_REASONS_SHOWN]]
    more = [f"{len(counts) - _REASONS_SHOWN} other reasons"] if len(counts) > _REASONS_SHOWN else []
    typer.echo("; ".join([head, *shown, *more]), err=True)
