"""What the README of the repository quotes of the predictor: `python -m tokenwatt.perf_model.page.readme README.md`.

Two blocks between comments are written anew: the answers to the example's cases by the shipped fit, and the headline of
the scores in `results/prediction/scores.json` beside the README.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenwatt import store
from tokenwatt.errors import UserError
from tokenwatt.perf_model.cases import check_cases, read_table
from tokenwatt.perf_model.fit import shipped_fit
from tokenwatt.perf_model.page.markdown import QUANTITY_NAMES, percent, ranged, table
from tokenwatt.perf_model.page.score_page import BARS, SOURCES
from tokenwatt.perf_model.page.write import SCORES
from tokenwatt.perf_model.predict import predict_cases
from tokenwatt.perf_model.predictions import answer
from tokenwatt.workloads.library import library_folder

EXAMPLE = "predict-example.csv"
_BASELINES = ("bandwidth ratio", "tdp ratio", "constant x Hopper row", "aiconfigurator-core")


def example_table() -> str:
    """The example's answers, trimmed: three quantities of five."""
    cases = check_cases(read_table(library_folder() / EXAMPLE))
    fit = shipped_fit()
    answers = answer(cases, lambda valid: predict_cases(valid, fit))
    lines = []
    for given, found in zip(cases.given.to_dict("records"), answers.to_dict("records"), strict=True):
        load = f"{given['concurrency']} in flight" if given["concurrency"] else "offline"
        words = (given["weight_dtype"], f"{given['num_gpus']} GPU" if given["num_gpus"] else None, load)
        case = ", ".join(word for word in words if word)
        lines.append([given["model"], given["gpu"], case, *_answer(found)])
    head = ["model", "gpu", "case", "tokens/s per GPU", "W per GPU", "J/token", "method"]
    return table(head, lines, right_from=3)


def _answer(found: Mapping[Any, Any]) -> list[str]:
    if found["status"] != "ok":
        return [f"refused: {found['reason']}", "", "", ""]
    quantities = ("output_tokens_per_s_per_gpu", "gpu_power_w", "joules_per_output_token")
    values = [[float(found[f"predicted_{name}{end}"]) for end in ("", "_low", "_high")] for name in quantities]
    return [*(ranged(*each) for each in values), found["method"]]


def headline_table(scores: Mapping[str, Any]) -> str:
    """Error by source and quantity, beside the bar and four baselines; what there is of each."""
    asked = ("with operator tables", "from specs only", "model unseen", *_BASELINES)
    names = [name for name in asked if name in scores]
    sets = {
        name: {(line["source_set"], line["quantity"]): line["error"] for line in scores[name]["sets"]} for name in names
    }
    lines = [
        [
            SOURCES[key[0]],
            QUANTITY_NAMES[key[1]],
            percent(bar, 0),
            *(percent(math.nan if found.get(key) is None else found[key]) for found in sets.values()),
        ]
        for key, bar in BARS.items()
    ]
    return table(["published by", "quantity", "asked for", *names], lines, right_from=2)


def with_block(text: str, name: str, block: str) -> str:
    """The text with what stands between the comments `name` and `/name` replaced.

    Raises:
        UserError: they are not there, once each.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    if text.count(start) != 1 or text.count(end) != 1:
        raise UserError(f"the README needs {start.strip()} and {end.strip()} once each")
    head, rest = text.split(start)
    return f"{head}{start}\n{block}\n{end}{rest.split(end)[1]}"


def renewed(text: str, scores: Mapping[str, Any]) -> str:
    """The README with both blocks as they are now."""
    return with_block(with_block(text, "predict-example", example_table()), "predict-scores", headline_table(scores))


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the README that is named; 2 for input that is wrong."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1:
        print("usage: python -m tokenwatt.perf_model.page.readme README.md", file=sys.stderr)
        return 2
    readme = Path(given[0])
    try:
        scores = json.loads((readme.parent / "results" / "prediction" / SCORES).read_text(encoding="utf-8"))
        text = renewed(readme.read_text(encoding="utf-8"), scores).encode()
        store.write_whole(readme, lambda file: file.write(text))
    except (UserError, OSError) as error:
        print(f"tokenwatt: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
