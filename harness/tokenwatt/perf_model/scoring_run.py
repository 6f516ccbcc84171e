"""Rows with answers in, scores of a predictor and of the baselines on the same rows out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tokenwatt.perf_model.aiconfigurator import METHOD, aiconfigurator_baseline
from tokenwatt.perf_model.baselines import constant_baselines, ratio_baselines, tdp_as_power
from tokenwatt.perf_model.cases import MEASURED, Cases, check_cases, is_excluded, measured_columns, read_table
from tokenwatt.perf_model.measured_rows import points
from tokenwatt.perf_model.predictions import over_all
from tokenwatt.perf_model.score import Scores, labels_of, score, scores_as_json
from tokenwatt.reference.facts import FactBook


@dataclass(frozen=True, slots=True)
class KnownRows:
    """Valid rows with what was measured of them: to be fitted on, matched or scored."""

    cases: pd.DataFrame
    measured: pd.DataFrame

    @property
    def rows(self) -> pd.DataFrame:
        """Both, side by side: what a fit is made from."""
        return pd.concat([self.cases, self.measured], axis=1)

    @classmethod
    def of(cls, cases: Cases, table: pd.DataFrame) -> KnownRows:
        """The valid ones of a table, but for those that it excludes."""
        fair = cases.only(~is_excluded(table))
        return cls(fair.valid, measured_columns(table).loc[fair.valid.index])

    @classmethod
    def joined(cls, parts: Sequence[KnownRows]) -> KnownRows:
        """One below the other, under a new index."""
        none = pd.DataFrame(columns=["source_set", "family", "system", "weight_dtype", "engine"])
        cases = pd.concat([part.cases for part in parts], ignore_index=True) if parts else none
        measured = [part.measured for part in parts] or [pd.DataFrame(columns=list(MEASURED), dtype="float64")]
        return cls(cases, pd.concat(measured, ignore_index=True))


def read_known(paths: Sequence[Path], facts: FactBook | None = None) -> tuple[KnownRows, dict[Path, dict[int, str]]]:
    """Rows of several tables, and by path why others of it cannot be used.

    Raises:
        UserError: a table that cannot be read.
    """
    parts, refused = [], {}
    for path in paths:
        table = read_table(path)
        cases = check_cases(table, facts)
        parts.append(KnownRows.of(cases, table))
        why = table.loc[is_excluded(table), "exclude"] if is_excluded(table).any() else {}
        refused[path] = cases.refused | {index: f"excluded: {reason}" for index, reason in why.items()}
    return KnownRows.joined(parts), refused


def fitted_and_scored(known: KnownRows, cases: Cases) -> int:
    """How many valid cases are operating points that were fitted on: their scores say nothing of unseen ones."""
    if known.cases.empty or cases.valid.empty:
        return 0
    return int(points(cases.valid).isin(points(known.cases)).sum())


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of a predictor on one table of rows, and what they stand beside."""

    own: Scores
    with_excluded: Scores | None
    """With the rows that the table excludes; None where it excludes none."""
    baselines: dict[str, Scores]
    """By name, on the rows of `own`."""

    def as_json(self, name: str) -> dict[str, Any]:
        """Plain values of each, the predictor's under `name`."""
        every = {name: self.own} | ({f"{name}, excluded rows too": self.with_excluded} if self.with_excluded else {})
        return {each: scores_as_json(found) for each, found in (every | self.baselines).items()}


def score_all(
    cases: Cases,
    table: pd.DataFrame,
    answers: pd.DataFrame,
    known: KnownRows,
    python: Path | None = None,
    with_aiconfigurator: bool = False,
    facts: FactBook | None = None,
) -> Scored:
    """Scores of `answers` and of each baseline.

    table: where the cases came from, with its measured columns; known: rows for the baselines beside the scored ones.
    """
    keep, measured = ~is_excluded(table), measured_columns(table)
    pool = KnownRows.joined([known, KnownRows.of(cases, table)]) if len(known.cases) else KnownRows.of(cases, table)
    fair = cases.only(keep)
    labels = labels_of(fair)
    baselines = {
        name: score(labels, measured[keep], over_all(found, labels.index), is_baseline=True)
        for name, found in _baselines(fair.valid, pool, python, with_aiconfigurator, facts).items()
    }
    own = score(labels, measured[keep], answers[keep])
    return Scored(own, None if keep.all() else score(labels_of(cases), measured, answers), baselines)


def _baselines(
    valid: pd.DataFrame, pool: KnownRows, python: Path | None, with_aiconfigurator: bool, facts: FactBook | None
) -> dict[str, pd.DataFrame]:
    if valid.empty:
        return {}
    found = ratio_baselines(valid, pool.cases, pool.measured, facts)
    found |= {"TDP as power": tdp_as_power(valid, facts)}
    found |= constant_baselines(valid, pool.cases, pool.measured, facts)
    return found | ({METHOD: aiconfigurator_baseline(valid, python)} if with_aiconfigurator else {})
