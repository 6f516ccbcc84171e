"""What faster operations do to predictions, and what each is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from rich.console import Console

from tokenwatt.perf_model.predictions import QUANTITIES
from tokenwatt.perf_model.what_if import WORTH
from tokenwatt.terminal.cells import MAX_WIDTH, compact, new_table

_HEADINGS = {
    "output_tokens_per_s_per_gpu": "tokens/s\nper GPU",
    "tpot_s": "TPOT\ns",
    "ttft_s": "TTFT\ns",
    "gpu_power_w": "board\nW",
    "joules_per_output_token": "J per\ntoken",
}


def print_what_if(compared: pd.DataFrame, labels: Sequence[str], what_if: str) -> None:
    """One row per case: each quantity before, after, and after / before.

    compared: as of `what_if.compared`; labels: a name for each of its rows.
    """
    console = Console(width=MAX_WIDTH)
    console.print(f"before and after {what_if}", highlight=False, markup=False)
    table = new_table("case", *(text for name in QUANTITIES for text in (_HEADINGS[name], "after", "ratio")))
    for label, line in zip(labels, compared.to_dict("records"), strict=True):
        cells = []
        for name in QUANTITIES:
            before, after, ratio = (line[f"{name}_{which}"] for which in ("before", "after", "ratio"))
            cells += [f"  {compact(before)}", compact(after), f"{ratio:.4f}"]
        table.add_row(label, *cells)
    console.print(table)


def print_worth(worth: pd.DataFrame, labels: Mapping[int, str], factor: float) -> None:
    """One row per case and operation: by how much tokens/s and J/token change if it alone is faster.

    worth: as of `what_if.worth`; labels: a name for each case.
    """
    console = Console(width=MAX_WIDTH)
    console.print(f"each operation alone {factor:g} times as fast", highlight=False, markup=False)
    table = new_table("case", "operation", *(_HEADINGS[name] for name in WORTH))
    table.columns[1].justify = "left"
    for case, part in worth.groupby("case", sort=False):
        # The most valuable operation of a case first.
        ordered = part.sort_values(WORTH[0], ascending=factor < 1, kind="stable").to_dict("records")
        for place, line in enumerate(ordered):
            changes = (f"{100 * (line[name] - 1):+.3f} %" for name in WORTH)
            table.add_row("" if place else labels[int(str(case))], f"  {line['operation']}", *changes)
    console.print(table)
