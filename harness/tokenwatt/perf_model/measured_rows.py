"""Rows that were measured, as answers to cases that ask for the same."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from tokenwatt.perf_model.fit import Fit
from tokenwatt.perf_model.predictions import ENDS, OK, QUANTITIES, Z80

LABELS = (
    "family",
    "system",
    "weight_dtype",
    "num_gpus",
    "attention_tp",
    "attention_dp",
    "moe_tp",
    "moe_ep",
    "pp",
    "disaggregated",
    "prefill_workers",
    "prefill_gpus_each",
    "decode_workers",
    "decode_gpus_each",
    "engine",
    "engine_version",
    "source_set",
    "task",
    "scenario",
    "isl",
    "osl",
    "concurrency",
    "num_requests",
    "tpot_limit_s",
    "ttft_limit_s",
    "draft_tokens",
    "accepted_length",
)
"""What two rows have to agree in to be the same operating point."""
REPEAT_LOG_SD = 0.06
"""Of two published runs of the same labels (median of TPOT): a measurement is no more exact than its repetition."""


def measured_answers(cases: pd.DataFrame, fit: Fit) -> dict[str, pd.Series]:
    """Columns of answers to the cases that rows of the fit answer; empty where there are none."""
    if fit.known is None or fit.known.empty:
        return {}
    known = fit.known
    keys, asked = points(known), points(cases)
    matched = asked[asked.isin(keys)]
    if matched.empty:
        return {}
    answers: dict[str, pd.Series] = {}
    for name in QUANTITIES:
        rows = pd.Series(np.log(known[name].to_numpy(dtype=np.float64)), index=known.index).groupby(keys)
        mean, count = (matched.map(each).to_numpy(dtype=np.float64) for each in (rows.mean(), rows.count()))
        half = Z80 * REPEAT_LOG_SD * np.sqrt(1 + 1 / np.maximum(count, 1))
        for end, logs in zip(ENDS, (mean, mean - half, mean + half), strict=True):
            answers[f"predicted_{name}{end}"] = pd.Series(np.exp(logs), index=matched.index).dropna()
    said = {"method": "measured", "status": OK}
    return answers | {name: pd.Series(value, index=matched.index) for name, value in said.items()}


def points(rows: pd.DataFrame) -> pd.Series:
    """The operating point of each row, all its labels as one text. Missing is a label too: as many as fit, not said."""
    table = rows.reindex(columns=list(LABELS))
    return pd.Series(["|".join(map(_text, row)) for row in table.itertuples(index=False)], index=rows.index)


def _text(label: Any) -> str:
    """A number is the same in whatever type its column has it: one of whole numbers turns to floats by a gap in it."""
    if pd.isna(label):
        return ""
    return repr(float(label)) if isinstance(label, Real) else str(label).casefold()
