"""How good predictions are: error, bias, intervals and order, cell by cell, then averaged over cells.

A cell is one model family on one system in one source. Rows of a cell are not independent, so a cell counts once: the
median within it, then the mean over cells with `LEAST_ROWS` rows at least. With p predicted and m measured:

- error: median of |p / m - 1|; a row that is refused, or has no number, is 100 % wrong
- bias: median of ln(p / m), given as p / m - 1; refused rows have none
- coverage: share of rows with low <= m <= high; width: median of high / low; both over rows with an interval
- rank: rows that differ in nothing but the GPU are a group; Spearman's correlation of measured and predicted values
  within each group of two systems or more, averaged over groups. A group whose predictions do not differ counts 0

Rows that a baseline does not support are counted and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tokenwatt.errors import UserError
from tokenwatt.perf_model.cases import Cases
from tokenwatt.perf_model.gpu_names import system_of_gpu
from tokenwatt.perf_model.predictions import ENDS, OK, QUANTITIES, REFUSED, UNSUPPORTED
from tokenwatt.perf_model.shape_library import model_family

LEAST_ROWS = 5
SET = ["source_set", "quantity"]
CELL = [*SET, "family", "system"]
_SAME = ("weight_dtype", "engine", "task", "isl", "osl", "concurrency", "num_gpus", "attention_tp", "moe_ep")
"""What rows of one group have in common, beside their cell's family."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one predictor over one table of rows."""

    rows: pd.DataFrame
    """A line for each measured quantity of each row, see `residuals`."""
    cells: pd.DataFrame
    """A line for each cell."""
    sets: pd.DataFrame
    """A line for each source and quantity: means over cells."""

    def by_set(self) -> pd.DataFrame:
        """`sets` by source and quantity."""
        return self.sets.set_index(SET)

    def where_supported(self, baseline: Scores) -> Scores:
        """The same on the rows that a baseline can answer."""
        return _scores(self.rows[(baseline.rows["status"] != UNSUPPORTED).to_numpy()])


def labels_of(cases: Cases) -> pd.DataFrame:
    """What a given case is counted under: source, model, family, system, group. A refused one by what it is called."""
    given = cases.given
    labels = pd.DataFrame(
        {
            "case_id": given["case_id"].astype(str) if "case_id" in given.columns else given.index.astype(str),
            "source_set": given["source_set"].fillna("") if "source_set" in given.columns else "",
            "model": given["model"].fillna("").astype(str),
            "family": given["model"].fillna("").astype(str),
            "system": given["gpu"].fillna("").astype(str),
            "group": "",
        },
        index=given.index,
        dtype="object",
    )
    for name in ("source_set", "model", "family", "system"):
        labels.loc[cases.valid.index, name] = cases.valid.get(name)
    same = ["|".join(map(str, values)) for values in cases.valid.reindex(columns=list(_SAME)).itertuples(index=False)]
    labels.loc[cases.valid.index, "group"] = same
    for index in cases.refused:
        labels.at[index, "family"] = _or_itself(model_family, str(labels.at[index, "model"]))
        labels.at[index, "system"] = _or_itself(system_of_gpu, str(labels.at[index, "system"]))
    return labels.assign(source_set=labels["source_set"].replace("", "rows"))


def _or_itself(named: Callable[[str], str], name: str) -> str:
    try:
        return named(name)
    except UserError:
        return name


def score(labels: pd.DataFrame, measured: pd.DataFrame, answers: pd.DataFrame, *, is_baseline: bool = False) -> Scores:
    """Score answers.

    labels: `labels_of` all cases; measured: their `MEASURED` columns; answers: what was predicted. One index.
    is_baseline: a quantity that it has no number for is not supported; a predictor's is 100 % wrong.
    """
    return _scores(residuals(labels, measured, answers, is_baseline=is_baseline))


def _scores(rows: pd.DataFrame) -> Scores:
    cells = _cells(rows)
    return Scores(rows, cells, _sets(rows, cells))


def residuals(
    labels: pd.DataFrame, measured: pd.DataFrame, answers: pd.DataFrame, *, is_baseline: bool = False
) -> pd.DataFrame:
    """A line for each measured quantity of each case, with `predicted`, `low`, `high`, `status`, `error` (of 1) and
    `log_ratio` (NaN where there is no number)."""
    parts = []
    for quantity in QUANTITIES:
        names = {
            name: f"predicted_{quantity}{end}" for name, end in zip(("predicted", "low", "high"), ENDS, strict=True)
        }
        found = {name: answers[column].where(answers["status"] == OK) for name, column in names.items()}
        status = answers["status"]
        if is_baseline:
            status = status.where((status != OK) | found["predicted"].notna(), UNSUPPORTED)
        line = {"quantity": quantity, "measured": measured[quantity], **found, "status": status}
        parts.append(labels.assign(**line, reason=answers["reason"])[measured[quantity].notna()])
    table = pd.concat(parts)
    ratio = table["predicted"] / table["measured"]
    table = table.assign(error=(ratio - 1).abs().fillna(1.0), log_ratio=np.log(ratio))
    return table.rename_axis("row").reset_index()


def _cells(rows: pd.DataFrame) -> pd.DataFrame:
    lines = [
        {**dict(zip(CELL, key, strict=True)), **_line(part)}
        for key, part in rows.groupby(CELL, sort=True, dropna=False)
    ]
    return pd.DataFrame(lines, columns=[*CELL, *_LINE])


_LINE = ("rows", "refused", "unsupported", "error", "log_bias", "bias", "coverage", "width", "is_scored")


def _line(part: pd.DataFrame) -> dict[str, Any]:
    """Scores of the rows of one cell."""
    supported = part[part["status"] != UNSUPPORTED]
    bounded = supported[supported["low"].notna() & supported["high"].notna()]
    covered = (bounded["low"] <= bounded["measured"]) & (bounded["measured"] <= bounded["high"])
    log_bias = _median(supported["log_ratio"])
    return {
        "rows": len(supported),
        "refused": int((supported["status"] == REFUSED).sum()),
        "unsupported": len(part) - len(supported),
        "error": _median(supported["error"]),
        "log_bias": log_bias,
        "bias": float(np.expm1(log_bias)),
        "coverage": float(covered.mean()) if len(bounded) else np.nan,
        "width": _median(bounded["high"] / bounded["low"]),
        "is_scored": len(supported) >= LEAST_ROWS,
    }


def _median(values: pd.Series) -> float:
    return float(values.median()) if len(values) else float("nan")


def _sets(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for key, part in cells.groupby(SET, sort=False):
        scored = part[part["is_scored"]]
        of_set = rows[(rows["source_set"] == key[0]) & (rows["quantity"] == key[1])]
        correlations = _correlations(of_set[of_set["status"] != UNSUPPORTED])
        lines.append(
            {
                "source_set": key[0],
                "quantity": key[1],
                "rows": int(scored["rows"].sum()),
                "refused": int(part["refused"].sum()),
                "unsupported": int(part["unsupported"].sum()),
                "cells": len(scored),
                "error": scored["error"].mean(),
                "bias": float(np.expm1(scored["log_bias"].mean())),
                "coverage": scored["coverage"].mean(),
                "width": scored["width"].mean(),
                "rank": float(np.mean(correlations)) if correlations else np.nan,
                "rank_groups": len(correlations),
            }
        )
    order = {quantity: place for place, quantity in enumerate(QUANTITIES)}
    table = pd.DataFrame(lines, columns=_SET_COLUMNS)
    return table.sort_values(SET, key=lambda column: column.map(order) if column.name == "quantity" else column)


_SET_COLUMNS = [*SET, "rows", "refused", "unsupported", "cells"]
_SET_COLUMNS += ["error", "bias", "coverage", "width", "rank", "rank_groups"]


def _correlations(rows: pd.DataFrame) -> list[float]:
    """Spearman's correlation within each group of rows that differ in the system alone."""
    found = []
    for _, group in rows.dropna(subset=["predicted"]).groupby(["family", "group"]):
        of_system = group.groupby("system")[["measured", "predicted"]].median()
        if len(of_system) >= 2:
            found.append(_spearman(of_system["measured"], of_system["predicted"]))
    return found


def _spearman(one: pd.Series, other: pd.Series) -> float:
    """Correlation of ranks; 0 where one of them has no order."""
    ranks = [values.rank().to_numpy() - (len(values) + 1) / 2 for values in (one, other)]
    norm = float(np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1]))
    return float(ranks[0] @ ranks[1]) / norm if norm else 0.0


def scores_as_json(scores: Scores) -> dict[str, Any]:
    """Sets and cells as plain values; None where there is no number."""
    return {"sets": _records(scores.sets), "cells": _records(scores.cells.drop(columns="log_bias"))}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    plain: Sequence[dict[Any, Any]] = table.to_dict("records")
    return [{str(name): _plain(value) for name, value in line.items()} for line in plain]


def _plain(value: Any) -> Any:
    found = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(found, float) and not np.isfinite(found) else found
