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

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tokenwatt.perf_model.predictions import OK, QUANTITIES, REFUSED, UNSUPPORTED

LEAST_ROWS = 5
SET = ["source_set", "quantity"]
CELL = [*SET, "family", "system"]
_SAME = ("weight_dtype", "engine", "task", "isl", "osl", "concurrency", "num_gpus", "attention_tp", "moe_ep")
"""What rows of one group have in common, beside their cell's family."""
_SUFFIXES = re.compile(
    r"-(instruct|it|chat|thinking|base|fp8|fp4|nvfp4|bf16|int4|awq|gptq|fp8-static-pertensor|\d{4}|v\d+-fp8)$"
)

Family = Callable[[str], str]
"""Family of a model by its name."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one predictor over one table of rows."""

    rows: pd.DataFrame
    """A line for each measured quantity of each row, see `residuals`."""
    cells: pd.DataFrame
    """A line for each cell."""
    sets: pd.DataFrame
    """A line for each source and quantity: means over cells."""


def family_of_name(model: str) -> str:
    """A model's name without its owner, its precision and what it was tuned for.

    >>> family_of_name("nvidia/Llama-3.1-8B-Instruct-FP8"), family_of_name("Qwen/Qwen3-235B-A22B-Thinking-2507-FP8")
    ('llama-3.1-8b', 'qwen3-235b-a22b')
    """
    name = model.rsplit("/", 1)[-1].casefold().replace("_", "-")
    while (shorter := _SUFFIXES.sub("", name)) != name:
        name = shorter
    return "deepseek-v3" if re.fullmatch(r"deepseek-(r1|v3|v3\.1)", name) else name


def score(cases: pd.DataFrame, measured: pd.DataFrame, answers: pd.DataFrame, family: Family = family_of_name) -> Scores:
    """Score answers.

    cases: valid rows (`check_cases`); measured: their `MEASURED` columns; answers: their predictions. One index.
    """
    rows = residuals(cases, measured, answers, family)
    cells = _cells(rows)
    return Scores(rows, cells, _sets(rows, cells))


def residuals(
    cases: pd.DataFrame, measured: pd.DataFrame, answers: pd.DataFrame, family: Family = family_of_name
) -> pd.DataFrame:
    """A line for each measured quantity of each row, with `predicted`, `error` (of 1) and `log_ratio` (NaN: refused)."""
    same = [name for name in _SAME if name in cases.columns]
    head = pd.DataFrame(
        {
            "row": cases.index,
            "case_id": cases["case_id"] if "case_id" in cases.columns else cases.index.astype(str),
            "source_set": cases["source_set"].replace("", "rows") if "source_set" in cases.columns else "rows",
            "model": cases["model"],
            "family": cases["model"].map(family),
            "system": cases["system"],
            "group": ["|".join(map(str, values)) for values in cases[same].itertuples(index=False)],
            "status": answers["status"],
            "reason": answers["reason"],
        },
        index=cases.index,
    )
    parts = []
    for quantity in QUANTITIES:
        known = measured[quantity].notna()
        values = {
            "quantity": quantity,
            "measured": measured[quantity],
            **{
                name: answers[f"predicted_{quantity}{end}"].where(answers["status"] == OK)
                for name, end in (("predicted", ""), ("low", "_low"), ("high", "_high"))
            },
        }
        parts.append(head.assign(**values)[known])
    table = pd.concat(parts, ignore_index=True)
    ratio = table["predicted"] / table["measured"]
    return table.assign(error=(ratio - 1).abs().fillna(1.0), log_ratio=np.log(ratio))


def _cells(rows: pd.DataFrame) -> pd.DataFrame:
    lines = [
        {**dict(zip(CELL, key, strict=True)), **_line(part)} for key, part in rows.groupby(CELL, sort=True, dropna=False)
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


def as_json(scores: Scores) -> dict[str, Any]:
    """Sets and cells as plain values; None where there is no number."""
    return {"sets": _records(scores.sets), "cells": _records(scores.cells.drop(columns="log_bias"))}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    plain: Sequence[dict[Any, Any]] = table.to_dict("records")
    return [{str(name): _plain(value) for name, value in line.items()} for line in plain]


def _plain(value: Any) -> Any:
    found = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(found, float) and not np.isfinite(found) else found
