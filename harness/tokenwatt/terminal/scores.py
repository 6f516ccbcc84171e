"""Scores of predictions as people read them: the predictor, the baselines beside it, its cells."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from rich.console import Console

from tokenwatt.perf_model.score import Scores
from tokenwatt.perf_model.scoring_run import Scored
from tokenwatt.terminal.cells import MAX_WIDTH, new_table

_NAMES = {
    "output_tokens_per_s_per_gpu": "tokens/s per GPU",
    "tpot_s": "TPOT",
    "ttft_s": "TTFT",
    "gpu_power_w": "board power",
    "joules_per_output_token": "J/token",
}
PREDICTOR = "prediction"
"""Name of what is scored beside its baselines."""


def print_scores(scored: Scored) -> None:
    """Tables of the predictor's scores, of its error beside that of every baseline, and of its cells."""
    console = Console(width=MAX_WIDTH)
    own = scored.own
    console.print(_sets_table(own.sets))
    if scored.with_excluded is not None:
        console.print("\nwith the excluded rows", highlight=False)
        console.print(_sets_table(scored.with_excluded.sets))
    lines = ["error: median of |predicted / measured - 1| in a cell, then the mean over cells; a refused row is 100 %"]
    if scored.baselines:
        console.print(
            "\nerror beside the baselines, in brackets how many rows one cannot answer, and the prediction's error on "
            "those that it can",
            markup=False,
        )
        console.print(_baselines_table(own, scored.baselines))
    console.print("\ncells, the worst first", highlight=False)
    console.print(_cells_table(own.cells))
    lines.append("a cell of fewer rows than five, marked *, is not counted")
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _sets_table(sets: pd.DataFrame) -> object:
    table = new_table("rows of", "quantity", "rows", "cells", "refused", "error", "bias", "in 80 %", "high/low", "rank")
    for line in sets.to_dict("records"):
        table.add_row(
            line["source_set"],
            _NAMES[line["quantity"]],
            str(line["rows"]),
            str(line["cells"]),
            str(line["refused"]),
            *_shared(line),
            _plain(line["rank"]),
        )
    return table


def _baselines_table(own: Scores, baselines: Mapping[str, Scores]) -> object:
    table = new_table("rows of", "quantity", PREDICTOR, *baselines)
    pairs = [(each.by_set(), own.where_supported(each).by_set()) for each in baselines.values()]
    for line in own.sets.to_dict("records"):
        key = line["source_set"], line["quantity"]
        cells = [_beside(*(sets.loc[key] if key in sets.index else None for sets in pair)) for pair in pairs]
        table.add_row(key[0], _NAMES[key[1]], _percent(line["error"]), *cells)
    return table


def _beside(line: pd.Series | None, own: pd.Series | None) -> str:
    if line is None or own is None or not line["rows"]:
        return "–"
    error = _percent(line["error"])
    return f"{error} ({line['unsupported']:.0f}, {_percent(own['error'])})" if line["unsupported"] else error


def _cells_table(cells: pd.DataFrame) -> object:
    table = new_table(
        "rows of", "quantity", "model", "system", "rows", "refused", "error", "bias", "in 80 %", "high/low"
    )
    for line in cells[cells["rows"] > 0].sort_values("error", ascending=False, kind="stable").to_dict("records"):
        table.add_row(
            line["source_set"],
            _NAMES[line["quantity"]],
            line["family"],
            line["system"],
            f"{line['rows']}{'' if line['is_scored'] else '*'}",
            str(line["refused"]),
            *_shared(line),
        )
    return table


def _shared(line: Mapping[object, float]) -> tuple[str, ...]:
    bias = line["bias"]
    return (
        _percent(line["error"]),
        "–" if bias != bias else f"{100 * bias:+.1f} %",
        _percent(line["coverage"]),
        _plain(line["width"]),
    )


def _percent(value: float) -> str:
    return "–" if value != value else f"{100 * value:.1f} %"


def _plain(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"
