"""What was lost of rows that other tools measured."""

from __future__ import annotations

from typing import Any

import pandas as pd


def imported_tools(measurements: pd.DataFrame) -> list[dict[str, Any]]:
    """Each tool that rows were imported from, how many of them, and the losses that they name, each once."""
    rows = measurements[measurements["imported_from"].notna()]
    return [
        {
            "tool": tool,
            "rows": len(group),
            "losses": list(dict.fromkeys(loss for losses in group["import_losses"] for loss in losses)),
        }
        for tool, group in rows.groupby("imported_from", sort=True)
    ]
