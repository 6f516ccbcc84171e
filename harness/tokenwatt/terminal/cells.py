"""What a table is made of: its frame, and numbers that fit narrow columns."""

from __future__ import annotations

from rich import box
from rich.table import Table

from tokenwatt.record import EnergyStatus
from tokenwatt.units import format_si

MAX_WIDTH = 300
WHY_NO_JOULES = {
    EnergyStatus.NO_METER: "no meter",
    EnergyStatus.INVALID: "energy invalid",
}


def new_table(*headings: str) -> Table:
    """An empty table: the first column to the left, numbers to the right, nothing ever broken in two."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left", vertical="bottom", no_wrap=True)
    return table


def compact(value: float | None, digits: int = 3) -> str:
    """A number for a narrow column: `format_si` without its unit and spaces.

    >>> compact(16804.0), compact(0.0336, 2), compact(7.9e6, 2)
    ('16.8k', '0.034', '7.9M')
    """
    if value is None or value != value:
        return "–"
    return f"{value:.{digits}g}" if abs(value) < 1 else format_si(value, "", digits).replace(" ", "")


def compact_range(low: float, high: float) -> str:
    """Two ends in a narrow column; a prefix that both share is written once.

    >>> compact_range(1233.0, 1730.0), compact_range(669.0, 1000.0), compact_range(0.121, 0.246)
    ('1.2-1.7k', '670-1.0k', '0.12-0.25')
    """
    first, last = compact(low, 2), compact(high, 2)
    shared = first[-1].isalpha() and first[-1] == last[-1]
    return f"{first[:-1] if shared else first}-{last}"
