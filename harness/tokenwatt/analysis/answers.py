"""What is known of an engine's answers, in the few words that a table has room for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd


def answers_of(row: Mapping[Any, Any]) -> str:
    """The check of a row of `measurements`; empty where nobody asked for one.

    >>> answers_of({"accuracy_status": "agrees", "accuracy_mean_difference": 0.00834})
    'answers agree (0.0083 nats)'
    """
    status = row["accuracy_status"]
    if status == "not_checked":
        return ""
    if status == "not_applicable":
        return "answers not checked: random weights"
    difference = row["accuracy_mean_difference"]
    figures = "" if difference is None or pd.isna(difference) else f" ({difference:.2g} nats)"
    return f"answers {'agree' if status == 'agrees' else 'disagree'}{figures}"
