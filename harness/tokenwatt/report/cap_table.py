"""The table of power caps: a row per cap, and what the sweep says in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenwatt.analysis.power_caps import CapFrontier, CapPoint, Estimate, sentence
from tokenwatt.report.tables import NOTHING, number, percent


def cap_sections(found: Sequence[CapFrontier]) -> list[dict[str, Any]]:
    """Each sweep with its sentence and a row per cap."""
    return [
        {
            "name": frontier.name,
            "sentence": sentence(frontier),
            "rows": [_cap_row(point, frontier) for point in frontier.points],
        }
        for frontier in found
    ]


def _cap_row(point: CapPoint, frontier: CapFrontier) -> dict[str, Any]:
    reference = frontier.reference.tokens_per_s.mean
    return {
        "cap": point.label,
        "speed": _estimate_cell(point.tokens_per_s),
        "frugality": _estimate_cell(point.tokens_per_j),
        "share": percent(point.tokens_per_s.mean / reference) if reference else NOTHING,
        "windows": point.windows,
        "note": "best" if point is frontier.best else "on the frontier" if point.is_pareto else "beaten",
    }


def _estimate_cell(estimate: Estimate) -> dict[str, str]:
    has_ends = estimate.low is not None and estimate.high is not None
    ends = f"{number(estimate.low)} to {number(estimate.high)}" if has_ends else "no interval"
    return {"mean": number(estimate.mean), "ends": ends}
