"""Every row as a dot: x = its cell, y = predicted / measured on a logarithmic axis; a panel for each quantity.

The grey box behind a cell is its 80 % band: a dot inside means that the interval holds what was measured, where the
row's interval is as wide as the cell's median one. Ratios beyond `EDGE` are drawn on the edge, as open dots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd

from tokenwatt.perf_model.page.markdown import QUANTITY_NAMES

EDGE = 4.0
"""Ratio at the upper edge; its inverse at the lower one."""
TICKS = (0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0)
_LEFT, _RIGHT, _TOP, _PANEL, _GAP = 56, 16, 28, 190, 34
_LEAST_COLUMN, _FOOT = 46, 132
_STYLE = (
    "text{font:11px sans-serif;fill:#777}.t{font-weight:bold}.g{stroke:#999;stroke-opacity:.35}"
    ".o{stroke:#999}.b{fill:#999;fill-opacity:.22}.d{fill:#4477aa;fill-opacity:.6}"
    ".x{fill:none;stroke:#ee6677}"
)


def residual_plot(rows: pd.DataFrame) -> str:
    """SVG of the rows of one source (`score.Scores.rows`) that have a number."""
    known = rows[rows["log_ratio"].notna()]
    quantities = [name for name in QUANTITY_NAMES if (known["quantity"] == name).any()]
    cells = sorted(set(zip(known["family"], known["system"], strict=True)))
    column = max(_LEAST_COLUMN, 640 / max(len(cells), 1))
    width = _LEFT + column * len(cells) + _RIGHT
    height = _TOP + len(quantities) * (_PANEL + _GAP) + _FOOT
    parts = []
    for place, quantity in enumerate(quantities):
        part = known[known["quantity"] == quantity]
        parts += _panel(part, cells, column, _TOP + place * (_PANEL + _GAP), QUANTITY_NAMES[quantity])
    parts += _names(cells, column, _TOP + len(quantities) * (_PANEL + _GAP) - _GAP + 12)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">\n'
        f"<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(rows: pd.DataFrame, cells: Sequence[tuple[str, str]], column: float, top: float, title: str) -> list[str]:
    right = _LEFT + column * len(cells)
    parts = [f'<text class="t" x="{_LEFT}" y="{top - 8:.0f}">{escape(title)}: predicted / measured</text>']
    for tick in TICKS:
        y = top + _height(math.log(tick))
        parts.append(
            f'<line class="{"o" if tick == 1 else "g"}" x1="{_LEFT}" x2="{right:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for place, (family, system) in enumerate(cells):
        cell = rows[(rows["family"] == family) & (rows["system"] == system)]
        if len(cell):
            parts += _cell(cell.sort_values(["case_id", "row"]), _LEFT + place * column, column, top)
    return parts


def _cell(rows: pd.DataFrame, left: float, column: float, top: float) -> list[str]:
    parts = []
    above, below = (float(np.median(np.log((rows["predicted"] / rows[end]).to_numpy()))) for end in ("low", "high"))
    if math.isfinite(above) and math.isfinite(below):
        y, bottom = top + _height(above), top + _height(below)
        parts.append(
            f'<rect class="b" x="{left + 3:.1f}" y="{y:.1f}" width="{column - 6:.1f}" height="{bottom - y:.1f}"/>'
        )
    for place, ratio in enumerate(rows["log_ratio"]):
        # Side by side in the order of their names, so that equal ratios do not cover each other.
        x = left + 6 + (column - 12) * (place + 0.5) / len(rows)
        kind = "x" if abs(ratio) > math.log(EDGE) else "d"
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{top + _height(ratio):.1f}" r="2.2"/>')
    return parts


def _height(log_ratio: float) -> float:
    """Below the top of a panel."""
    within = min(max(log_ratio, -math.log(EDGE)), math.log(EDGE))
    return _PANEL * (0.5 - within / (2 * math.log(EDGE)))


def _names(cells: Sequence[tuple[str, str]], column: float, top: float) -> list[str]:
    found = []
    for place, (family, system) in enumerate(cells):
        x = _LEFT + (place + 0.5) * column
        found.append(
            f'<text x="{x:.1f}" y="{top:.0f}" text-anchor="end" transform="rotate(-40 {x:.1f} {top:.0f})">'
            f"{escape(family)}, {escape(system.split()[0])}</text>"
        )
    return found
