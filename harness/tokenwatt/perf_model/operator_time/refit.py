"""Refit every operator curve from the tables: `python -m tokenwatt.perf_model.operator_time.refit -o FILE`."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from tokenwatt.errors import UserError, unknown_name
from tokenwatt.perf_model.operator_time.ceilings import ceilings_of, runs_at
from tokenwatt.perf_model.operator_time.collective_tables import NCCL, read_collectives
from tokenwatt.perf_model.operator_time.fit import Fit, fit_curve
from tokenwatt.perf_model.operator_time.operators import OPERATORS, Operator, operator_of
from tokenwatt.perf_model.operator_time.serving import serving_rows
from tokenwatt.perf_model.operator_time.tables import ENGINES, SYSTEM_OF_FOLDER, read_operator
from tokenwatt.reference.operators import OperatorRow
from tokenwatt.reference.systems import load_system

LEAST_ROWS_A_PARAMETER = 4
"""A curve with fewer rows than this for each of its parameters is not fitted."""
_DIGITS = 5
_PLAIN = "bf16"
_HOST_RATIO = 4.0


def measured_rows(folder: str, engine: str) -> Iterator[tuple[Operator, pd.DataFrame]]:
    """Each operator with its rows of one GPU and engine, cut to what serving asks."""
    for family, operator in OPERATORS.items():
        if operator.kind == "compute" and engine != NCCL:
            rows = read_operator(family, folder, engine)
            yield operator, serving_rows(rows, family) if len(rows) else rows
    rows = read_collectives(folder, engine)
    rows = serving_rows(rows, "collective") if len(rows) else rows
    for name, part in rows.groupby("operator"):
        yield operator_of(str(name)), part


def refit(folder: str, engine: str, families: Sequence[str] = tuple(OPERATORS)) -> Iterator[OperatorRow]:
    """Rows of every curve of one GPU and engine whose operator is one of `families`."""
    system = load_system(SYSTEM_OF_FOLDER[folder])
    for operator, rows in measured_rows(folder, engine):
        if operator.name not in families:
            continue
        plain = rows[rows["dtype"] == _PLAIN]
        for (name, dtype), part in rows.groupby(["operator", "dtype"]):
            if len(plain) and dtype != _PLAIN and timed_the_host(part, plain):
                continue
            if len(part) < LEAST_ROWS_A_PARAMETER * len(operator.parameters) or not runs_at(system, str(dtype)):
                continue
            fit = fit_curve(part, operator, str(dtype), ceilings_of(system, str(dtype)))
            source = "; ".join(sorted(part["source"].unique()))
            yield from rows_of(fit, system.name, engine, operator, str(name), str(dtype), source)


def timed_the_host(rows: pd.DataFrame, plain: pd.DataFrame) -> bool:
    """Whether the fastest tenth of a table takes over four times as long as that of the same operator in bf16.

    Such kernels were launched one by one by a host that was slower than they are (vLLM's fp8_block matmuls: 60 to
    300 us whatever the shape). Serving replays recorded launches, and their time says nothing about it.
    """
    fast, fast_plain = (each["latency_s"].quantile(0.1) for each in (rows, plain))
    return bool(fast > _HOST_RATIO * fast_plain)


def rows_of(
    fit: Fit, subject: str, engine: str, operator: Operator, name: str, dtype: str, source: str
) -> Iterator[OperatorRow]:
    """One fit as rows, its spread last."""
    figures = [
        (parameter.name, *(each[parameter.name] for each in (fit.parameters, fit.low, fit.high)), parameter.unit)
        for parameter in operator.parameters
    ]
    figures += [("log_sd", *(fit.log_sd,) * 3, "1"), ("median_error", *(fit.median_error,) * 3, "1")]
    for label, value, low, high, unit in figures:
        yield OperatorRow(
            subject=subject,
            engine=engine,
            operator=name,
            dtype=dtype,
            parameter=label,
            value=_short(value),
            low=min(_short(low), _short(value)),
            high=max(_short(high), _short(value)),
            unit=unit,
            rows=fit.rows,
            source=source,
            grade="measured",
        )


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def write_rows(rows: Sequence[OperatorRow], path: Path) -> None:
    """Write rows as CSV, columns in the order of `OperatorRow`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(OperatorRow.model_fields), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: f"{cell:g}" if isinstance(cell, float) else cell for name, cell in row})


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Refit operator curves from aiconfigurator-core's tables.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="CSV to write")
    parser.add_argument("--gpu", action="append", help=f"only these: {', '.join(SYSTEM_OF_FOLDER)}")
    given = parser.parse_args(arguments)
    try:
        folders = given.gpu or list(SYSTEM_OF_FOLDER)
        for folder in folders:
            if folder not in SYSTEM_OF_FOLDER:
                raise unknown_name("gpu", folder, SYSTEM_OF_FOLDER)
        rows = [row for folder in folders for engine in (*ENGINES, NCCL) for row in refit(folder, engine)]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_rows(rows, given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
