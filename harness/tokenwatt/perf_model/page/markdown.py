"""Numbers and tables as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

QUANTITY_NAMES = {
    "output_tokens_per_s_per_gpu": "tokens/s per GPU",
    "tpot_s": "TPOT",
    "ttft_s": "TTFT",
    "gpu_power_w": "board power",
    "joules_per_output_token": "J/token",
}
NONE = "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right_from: int = 1) -> str:
    """A table; columns from `right_from` on are aligned to the right."""
    rules = ["---" if place < right_from else "---:" for place in range(len(head))]
    lines = [head, rules, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def percent(value: float, digits: int = 1) -> str:
    """A share of 1 in per cent."""
    return NONE if not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def signed_percent(value: float) -> str:
    """As `percent`, with its sign."""
    return NONE if not math.isfinite(value) else f"{100 * value:+.1f} %"


def plain(value: float, digits: int = 2) -> str:
    """A number with a fixed number of digits."""
    return NONE if not math.isfinite(value) else f"{value:.{digits}f}"


def short(value: float) -> str:
    """Three significant digits, thousands with commas.

    >>> short(12345.6), short(0.012345), short(8e12)
    ('12,300', '0.0123', '8e+12')
    """
    if not math.isfinite(value):
        return NONE
    rounded = float(f"{value:.3g}")
    if 1000 <= abs(rounded) < 1e7:
        return f"{rounded:,.0f}"
    return f"{rounded:.3g}"


def ranged(central: float, low: float, high: float, scale: float = 1.0) -> str:
    """A value with its range, each multiplied by `scale`.

    >>> ranged(2.0, 1.0, 4.0, 1000.0)
    '2,000 (1,000 to 4,000)'
    """
    if not math.isfinite(central):
        return NONE
    return f"{short(central * scale)} ({short(low * scale)} to {short(high * scale)})"
