"""What `predict --explain` and `predict --what-if` show of answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import pandas as pd

    from tokenwatt.perf_model.cases import Cases
    from tokenwatt.perf_model.fit import Fit
    from tokenwatt.perf_model.what_if import Change, Known


def explain_case(
    cases: Cases, answers: pd.DataFrame, fit: Fit, specs_only: bool, case_id: str | None, as_json: bool
) -> None:
    """Print one answered case; one at least is answered.

    Raises:
        UserError: no case is called `case_id`, or it is refused.
    """
    from tokenwatt.perf_model.explanation import chosen, explain, explanation_as_json
    from tokenwatt.perf_model.predict import by_generation
    from tokenwatt.terminal import print_explanation

    index = chosen(cases.given, answers, case_id)
    if specs_only:
        fit = by_generation(cases.valid.loc[[index]], fit)[0][1]
    row = cases.valid.loc[[index]].to_dict("records")[0]
    found = explain(row, answers.loc[index].to_dict(), index, fit)
    if as_json:
        typer.echo(json.dumps(explanation_as_json(found), indent=2))
    else:
        print_explanation(found)


def show_what_if(
    cases: Cases,
    answers: pd.DataFrame,
    fit: Fit,
    specs_only: bool,
    changes: Sequence[Change],
    output: Path | None,
    as_json: bool,
) -> None:
    """Print and write the answers under changes, or what each operation is worth where the change is of `all`.

    Raises:
        UserError: a change names nothing that these cases have.
    """
    from tokenwatt.perf_model.predict import by_generation
    from tokenwatt.perf_model.what_if import ALL, Known, check_names, operation_names

    parts = by_generation(cases.valid, fit) if specs_only else [(cases.valid, fit)]
    known = [found for part in parts if (found := Known.of(*part)) is not None]
    check_names(changes, operation_names(known))
    if changes[0].name == ALL:
        _show_worth(cases, known, changes[0].factor, output, as_json)
    else:
        _show_changes(cases, answers, known, changes, output, as_json)


def _show_changes(
    cases: Cases,
    answers: pd.DataFrame,
    known: Sequence[Known],
    changes: Sequence[Change],
    output: Path | None,
    as_json: bool,
) -> None:
    import pandas as pd

    from tokenwatt.perf_model.predictions import QUANTITIES, joined, write_predictions
    from tokenwatt.perf_model.what_if import compared, ratios, under
    from tokenwatt.terminal import print_what_if

    said = " ".join(map(str, changes))
    changed = under(answers, cases.valid, pd.concat([ratios(each, changes) for each in known]))
    if output is not None:
        write_predictions(joined(cases.given, changed).assign(what_if=said), output)
        typer.echo(f"written to {output}", err=True)
    table = compared(answers, changed)
    labels = _labels(cases)
    if not as_json:
        print_what_if(table, [labels[index] for index in table.index], said)
        return
    which = ("before", "after", "ratio")
    rows = [
        {"case": labels[index], **{name: {end: line[f"{name}_{end}"] for end in which} for name in QUANTITIES}}
        for index, line in zip(table.index, table.to_dict("records"), strict=True)
    ]
    typer.echo(json.dumps({"what_if": said, "cases": rows}, indent=2))


def _show_worth(cases: Cases, known: Sequence[Known], factor: float, output: Path | None, as_json: bool) -> None:
    import pandas as pd

    from tokenwatt.perf_model.predictions import write_predictions
    from tokenwatt.perf_model.what_if import worth
    from tokenwatt.terminal import print_worth

    table = pd.concat([worth(each, factor) for each in known], ignore_index=True)
    labels = _labels(cases)
    named = table.assign(case=table["case"].map(labels), factor=factor)
    if output is not None:
        write_predictions(named, output)
        typer.echo(f"written to {output}", err=True)
    if as_json:
        typer.echo(named.to_json(orient="records", indent=2))
    else:
        print_worth(table, labels, factor)


def _labels(cases: Cases) -> dict[int, str]:
    from tokenwatt.perf_model.explanation import case_name

    return {
        index: case_name(row, index)
        for index, row in zip(cases.given.index, cases.given.to_dict("records"), strict=True)
    }
