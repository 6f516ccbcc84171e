"""Write `operator_power.csv` anew: `python -m tokenwatt.perf_model.operator_power.refit -o FILE [--table FILE]`.

Without `--table` the installed `aiconfigurator-core` is read, which has power of attention and mixtures of experts on
B200 and of nothing else: the answer then holds B200 alone. The shipped rows were fitted on a table of all three GPUs.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tokenwatt.errors import UserError
from tokenwatt.perf_model.operator_power.fit import PowerFit, fit_power, predicted_w, score
from tokenwatt.perf_model.operator_power.hold_out import generations_apart, hold_out_score
from tokenwatt.perf_model.operator_power.rows import UNITS, PowerRow
from tokenwatt.perf_model.operator_power.tables import PACKAGE, package_table, read_table
from tokenwatt.perf_model.operator_power.work import with_rates
from tokenwatt.reference.facts import Grade
from tokenwatt.reference.systems import load_system

SOURCE = "ai-dynamo/aiconfigurator@095f58a5 vllm 0.22.0 operator collection (Apache-2.0)"
ASSUMED = (
    ("pj_per_link_byte", 80.0, 30.0, 200.0, "nobody published it; NVLink and switch ports, some 4 to 25 pJ a bit"),
    ("clock_exponent", 2.5, 1.5, 3.0, "power is f V^2: 1 where voltage has reached its floor, 3 where it follows"),
    ("generation_log_sd", 0.35, 0.2, 0.5, "how far a parameter moves between generations where only one is known"),
)
"""Parameter, value, low, high, why: what no table holds."""


def fitted_rows(table: pd.DataFrame, source: str) -> tuple[list[PowerRow], pd.DataFrame]:
    """Rows of every GPU in a table of operators, and how well they fit by system and family."""
    rates = with_rates(table)
    rows, scores = [], {}
    for system in sorted(set(rates["system"])):
        mine = rates[rates["system"] == system].reset_index(drop=True)
        tdp_w = load_system(system).tdp_w.value
        fit = fit_power(mine, tdp_w)
        rows += _rows(system, fit, source)
        cap_w = fit.values["cap_fraction", ""][1] * tdp_w
        scores[system] = score(predicted_w(fit.values, mine, cap_w), mine)
    return [*rows, *assumed_rows()], pd.concat(scores, names=["system"])


def older_to_newer(table: pd.DataFrame, rows: Sequence[PowerRow]) -> pd.DataFrame | None:
    """Scores of each system as told from older generations alone; None where all are of one."""
    rates = with_rates(table)
    systems = sorted(set(rates["system"]))
    scores = {}
    for system in systems:
        excluded = generations_apart(systems, system)
        if len(excluded) < len(systems):
            scores[system] = hold_out_score(rates, system, rows, excluded)
    return pd.concat(scores, names=["system"]) if scores else None


def assumed_rows() -> list[PowerRow]:
    """What no table holds, with what a reader could hold instead."""
    return [
        PowerRow(
            subject="",
            parameter=name,
            value=value,
            low=low,
            high=high,
            unit=UNITS[name],
            rows=0,
            source=why,
            grade=Grade.ASSUMPTION,
        )
        for name, value, low, high, why in ASSUMED
    ]


def _rows(system: str, fit: PowerFit, source: str) -> list[PowerRow]:
    return [
        PowerRow(
            subject=system,
            parameter=name,
            dtype=dtype,
            value=_rounded(value),
            low=_rounded(low),
            high=_rounded(high),
            unit=UNITS[name],
            rows=fit.rows,
            source=source,
            grade=Grade.MEASURED,
        )
        for (name, dtype), (low, value, high) in fit.values.items()
    ]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def write_rows(path: Path, rows: Sequence[PowerRow]) -> None:
    """Write rows as CSV.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(PowerRow.model_fields)
            for row in rows:
                cells = row.model_dump(mode="json").values()
                writer.writerow(f"{cell:g}" if isinstance(cell, float) else cell for cell in cells)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, write and print how well it fits; 2 where the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tokenwatt.perf_model.operator_power.refit", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, help="CSV file to write")
    parser.add_argument("--table", type=Path, help="parquet file of operators, columns as in operator_power/work.py")
    given = parser.parse_args(arguments)
    try:
        table = package_table() if given.table is None else read_table(given.table)
        rows, scores = fitted_rows(table, f"{PACKAGE}, {SOURCE}" if given.table is None else SOURCE)
        write_rows(given.out, rows)
        told = older_to_newer(table, rows)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print("Fitted:", scores.round(1).to_string(), sep="\n")
    if told is not None:
        print("Told from older generations alone:", told.round(1).to_string(), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
