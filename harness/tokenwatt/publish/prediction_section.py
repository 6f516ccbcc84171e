"""The page's part on predictions: what was thought before measuring, and how far off it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from tokenwatt.publish.markdown import code, table
from tokenwatt.publish.predictions import Outcome, Prediction, outcome
from tokenwatt.report.tables import NOTHING
from tokenwatt.units import format_si

HEAD = ("quantity", "predicted", "likely", "made", "measured", "off", "inside", "rows", "decided by")


def prediction_section(predictions: Sequence[Prediction], tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Lines of the section; none without predictions."""
    if not predictions:
        return []
    outcomes = [outcome(prediction, tables) for prediction in predictions]
    early = [each for each in outcomes if each.measured is not None and each.is_early]
    inside = sum(bool(each.is_inside) for each in early)
    told = (
        f"{len(early)} of {len(outcomes)} predictions were made before they were measured; of these {inside} lie within"
        " what was thought likely. Off is measured over predicted, less one."
    )
    return ["## Predictions", "", told, "", *table(HEAD, map(_cells, outcomes)), ""]


def _cells(found: Outcome) -> list[str]:
    prediction = found.prediction
    measured = "not measured" if found.measured is None else _amount(found.measured, prediction.unit)
    inside = {None: NOTHING, True: "yes", False: "no"}[found.is_inside]
    return [
        prediction.quantity,
        _amount(prediction.predicted, prediction.unit),
        f"{_amount(prediction.low, prediction.unit)} to {_amount(prediction.high, prediction.unit)}",
        f"{prediction.made_at:%Y-%m-%d %H:%M}" + ("" if found.is_early else ", after the first of its rows"),
        measured,
        NOTHING if found.off is None else f"{found.off * 100:+.1f} %",
        inside,
        f"{found.rows}",
        code(prediction.measured),
    ]


def _amount(value: float, unit: str) -> str:
    return f"{value:.4g}" if unit == "1" else format_si(value, unit)
