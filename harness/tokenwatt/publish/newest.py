"""Which of several runs speaks: the one that measured a point, or a problem, last."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from tokenwatt.analysis.points import ASKED

PROBLEM = ("family", "problem", "dtype")
"""What a contest is about."""
POINT = tuple(column for column in ASKED if column not in ("run_id", "suite", "engine_version", "seed"))
"""What a point was asked to be, in any run of any suite."""


def newest(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Rows of the run that measured each of `keys` last, in their order; needs `measured_at` and `run_id`."""
    if rows.empty:
        return rows
    in_time = rows.sort_values(["measured_at", "run_id"], kind="stable")
    last = in_time.groupby(list(keys), dropna=False, sort=False)["run_id"].transform("last")
    return rows[rows["run_id"] == last.reindex(rows.index)]
