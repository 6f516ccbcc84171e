"""How far curves lie from the tables, measured and extrapolated: `python -m tokenwatt.perf_model.operator_time.check`.

For each system and operator family, over engines and precisions: the median absolute error of the shipped curves, and
that of curves from the trend of other systems, with the share of rows inside the 80 % interval. Systems of the asked
generation are all taken as not measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tokenwatt.errors import UserError
from tokenwatt.perf_model.operator_time.ceilings import ceilings_of, runs_at
from tokenwatt.perf_model.operator_time.fit import shape_of
from tokenwatt.perf_model.operator_time.refit import measured_rows
from tokenwatt.perf_model.operator_time.resolution import curve
from tokenwatt.perf_model.operator_time.tables import ENGINES, SYSTEM_OF_FOLDER
from tokenwatt.perf_model.operator_time.trend import GENERATIONS
from tokenwatt.reference.systems import load_system

INSIDE_80 = 1.2815515655446004
_EVERY = 7
"""Rows of a table between two that are checked."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One curve against its table."""

    system: str
    operator: str
    engine: str
    dtype: str
    method: str
    median_error: float
    bias: float
    """Median of log(predicted / measured)."""
    covered: float
    """Share of rows within the 80 % interval."""
    log_sd: float
    note: str


def check(folder: str, engine: str, exclude: Collection[str] = ()) -> Iterator[Checked]:
    """Every curve of one GPU and engine against its table."""
    system = load_system(SYSTEM_OF_FOLDER[folder])
    for operator, rows in measured_rows(folder, engine):
        for (name, dtype), part in rows.groupby(["operator", "dtype"]):
            if not runs_at(system, str(dtype)):
                continue
            some = part.iloc[::_EVERY] if operator.kind == "compute" else part
            try:
                found = curve(system.name, engine, str(name), str(dtype), exclude)
            except UserError:
                continue
            if not exclude and (found.curve.key.engine != engine or found.curve.key.dtype != dtype):
                continue
            predicted = found.curve.seconds(shape_of(some, operator), str(dtype), ceilings_of(system, str(dtype)))
            error = np.log(predicted / some["latency_s"].to_numpy(dtype=np.float64))
            inside = np.abs(error) <= INSIDE_80 * found.curve.log_sd
            yield Checked(
                system.name,
                operator.name,
                engine,
                str(dtype),
                found.method,
                float(np.median(np.abs(np.expm1(error)))),
                float(np.median(error)),
                float(np.mean(inside)),
                found.curve.log_sd,
                found.note,
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Hold operator curves against their tables.")
    parser.add_argument("--gpu", action="append", required=True, help=f"of {', '.join(SYSTEM_OF_FOLDER)}")
    parser.add_argument("--without", action="append", default=[], help="generation to be taken as not measured")
    parser.add_argument("--curves", action="store_true", help="every curve, not the median of each family")
    given = parser.parse_args(arguments)
    exclude = [name for name, generation in GENERATIONS.items() if generation in given.without]
    try:
        found = [each for folder in given.gpu for engine in ENGINES for each in check(folder, engine, exclude)]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    frame = pd.DataFrame(found)
    figures = ["median_error", "bias", "covered", "log_sd"]
    if not given.curves:
        frame = frame.groupby(["system", "operator"], as_index=False)[figures].median()
    print(frame.round(3).to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
