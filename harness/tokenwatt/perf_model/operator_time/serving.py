"""Which measured problems resemble serving: what a curve is fitted on, and judged by."""

from __future__ import annotations

import pandas as pd

# Lowest and highest value of a shape column.
_LIMITS = {
    "matmul": {"m": (1, 16384), "n": (512, 32768), "k": (512, 32768)},
    "attention.prefill": {"tokens": (64, 32768), "kv_heads": (1, 16), "head_dim": (64, 256)},
    "attention.decode": {"batch": (1, 512), "context": (128, 65537), "kv_heads": (1, 16), "head_dim": (64, 256)},
    "latent.prefill": {"tokens": (64, 32768), "heads": (4, 128)},
    "latent.decode": {"batch": (1, 512), "context": (128, 65537), "heads": (4, 128)},
    "grouped_matmul": {"tokens": (1, 16384), "intermediate": (64, 32768), "ep": (1, 64), "top_k": (1, 16)},
    "linear_attention.prefill": {"tokens": (64, 32768), "value_heads": (4, 128)},
    "linear_attention.decode": {"batch": (1, 512), "value_heads": (4, 128)},
    "collective": {"bytes": (1024, 2**26)},
}
_MOST_TOKENS = 65536
"""Of one prefill, all sequences together."""
_OWN_HEAD_DIM = 192
"""Expanded latent attention's head size, which has kernels of its own."""

_WITHOUT_GATE = (2688,)
"""Hidden sizes of models whose experts have no gate (Nemotron 3): two matrices, not three."""


def serving_rows(rows: pd.DataFrame, family: str) -> pd.DataFrame:
    """Rows of the size that serving has; `family` is an operator, or collective."""
    keep = pd.Series(True, rows.index)
    for column, (low, high) in _LIMITS[family].items():
        keep &= rows[column].between(low, high)
    if family.startswith("attention"):
        keep &= rows["head_dim"] != _OWN_HEAD_DIM
        keep &= rows["heads"] / rows["kv_heads"] <= 16
    if family == "grouped_matmul":
        keep &= ~rows["hidden"].isin(_WITHOUT_GATE)
    if family.endswith("prefill"):
        keep &= rows["batch"] * rows["tokens"] <= _MOST_TOKENS
    return rows[keep]
