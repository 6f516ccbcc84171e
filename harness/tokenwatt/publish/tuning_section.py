"""The page's part on tuning: what each measured tile gained over the default one."""

from __future__ import annotations

from tokenwatt.publish.markdown import code, table
from tokenwatt.publish.numbers import mean_and_range, microseconds, ratio
from tokenwatt.publish.tile_table import TileRow, TileTable

HEAD = ("family", "key", "tile", "default, µs", "tuned, µs", "gain", "problems", "date", "triton, torch")


def tuning_section(tiles: TileTable | None) -> list[str]:
    """Lines of the section; none without a table."""
    if tiles is None:
        return []
    gains = [row.gain for rows in tiles.rows.values() for row in rows if row.gain is not None]
    cells = [_cells(family, row) for family, rows in sorted(tiles.rows.items()) for row in rows]
    told = (
        f"Tiles that `{tiles.made_by}` measured on {tiles.gpu}, as they stood when this study was collected. The gain"
        f" is the default tile's time over the tuned one's: {mean_and_range(gains)} (geometric mean, and range)."
    )
    return ["## Tuning", "", told, "", *table(HEAD, cells), ""]


def _cells(family: str, row: TileRow) -> list[str]:
    return [
        family,
        code(_fields(row.key)),
        code(_fields(row.tile)),
        "rejected" if row.default_median_s is None else microseconds(row.default_median_s),
        microseconds(row.median_s),
        ratio(row.gain),
        ", ".join(row.problems),
        row.date,
        f"{row.triton}, {row.torch}",
    ]


def _fields(fields: dict[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in fields.items())
