"""FLOP and memory bytes of each row of a table of measured operators.

A table has one row per problem, in the order of measurement, in these columns (an operator leaves those of others
empty):

    gpu            key of `SYSTEMS`
    op             one of `FAMILIES`
    dtype          key of `DTYPES`: of weights, or of the queries in attention
    latency_s      seconds of one call
    power_w        mean board power while the call was repeated, W
    gemm           m, n, k: (m, k) times (k, n)
    *_attention    batch, isl (queries a sequence), step (cached tokens before the first query), num_heads,
                   num_kv_heads, head_dim, kv_dtype
    moe            num_tokens, hidden, intermediate (of one expert), top_k, num_experts, moe_tp, moe_ep

FLOP are those of the maths: causal attention counts half of the square, padding counts nothing. Bytes are the least
that memory moves: every operand once. Experts are taken to be chosen uniformly, so that
`E * (1 - (1 - top_k / E) ** tokens)` of E have a token.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from tokenwatt.errors import UserError

Family = Literal["gemm", "moe", "context_attention", "generation_attention"]
FAMILIES: tuple[Family, ...] = ("gemm", "moe", "context_attention", "generation_attention")
SYSTEMS = {"H200": "H200 SXM", "B200": "B200 SXM", "GB200": "GB200 NVL72"}
"""Name of a board in the table, and its system in `reference/hardware.csv`."""
DTYPES = {"bfloat16": "bfloat16", "fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4"}
"""Number format in the table, and that of the tensor cores. Weight-only formats compute in another one: left out."""

_BYTES = {"bfloat16": 2.0, "fp8": 1.0, "fp4": 0.5625}
"""fp4 with a scale of one byte for 16 elements."""
_ACTIVATION = 2.0
_SHAPE: dict[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"),
    "moe": ("num_tokens", "hidden", "intermediate", "top_k", "num_experts", "moe_tp", "moe_ep"),
    "context_attention": ("batch", "isl", "step", "num_heads", "num_kv_heads", "head_dim"),
    "generation_attention": ("batch", "isl", "step", "num_heads", "num_kv_heads", "head_dim"),
}
_COLUMNS = ("gpu", "op", "dtype", "latency_s", "power_w")


def with_rates(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that can be used, as columns system, family, dtype, power_w, flop_per_s and bytes_per_s.

    Left out: formats that are not in `DTYPES`, rows without a positive latency or power.

    Raises:
        UserError: a column is missing, a GPU or operator is unknown, or nothing is left.
    """
    _check(table)
    kept = table[table["dtype"].isin(DTYPES) & (table["latency_s"] > 0) & (table["power_w"] > 0)]
    if kept.empty:
        raise UserError(f"no row has a dtype of {', '.join(DTYPES)} with latency_s > 0 and power_w > 0")
    parts = [_rates(str(op), rows) for op, rows in kept.groupby("op", sort=False)]
    return pd.concat(parts).sort_index().reset_index(drop=True)


def _check(table: pd.DataFrame) -> None:
    missing = [name for name in _COLUMNS if name not in table]
    if missing:
        raise UserError(f"table of operators lacks columns {', '.join(missing)}; it needs {', '.join(_COLUMNS)}")
    for column, allowed in (("gpu", tuple(SYSTEMS)), ("op", FAMILIES)):
        unknown = sorted(set(table[column]) - set(allowed))
        if unknown:
            raise UserError(f"table of operators: {column} {unknown[0]!r} is unknown; known: {', '.join(allowed)}")
    for op in dict.fromkeys(table["op"]):
        absent = [name for name in (*_SHAPE[op], *_cache(op)) if name not in table]
        if absent:
            raise UserError(f"table of operators: {op} needs columns {', '.join(absent)}")


def _cache(op: str) -> tuple[str, ...]:
    return ("kv_dtype",) if op.endswith("attention") else ()


def _rates(op: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Rates of rows of one operator."""
    shape = {name: rows[name].to_numpy(dtype=float) for name in _SHAPE[op]}
    dtype = rows["dtype"].map(DTYPES)
    size = dtype.map(_BYTES).to_numpy(dtype=float)
    if op == "gemm":
        flop, moved = gemm_work(**shape, size=size)
    elif op == "moe":
        flop, moved = moe_work(**shape, size=size)
    else:
        cache = rows["kv_dtype"].map(_BYTES).to_numpy(dtype=float)
        flop, moved = attention_work(**shape, size=cache)
    seconds = rows["latency_s"].to_numpy(dtype=float)
    return pd.DataFrame(
        {
            "system": rows["gpu"].map(SYSTEMS),
            "family": op,
            "dtype": dtype,
            "power_w": rows["power_w"].astype(float),
            "flop_per_s": flop / seconds,
            "bytes_per_s": moved / seconds,
        },
        index=rows.index,
    )


def gemm_work(m: np.ndarray, n: np.ndarray, k: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """FLOP and bytes of (m, k) times (k, n), operands of `size` bytes an element, the product in bfloat16."""
    return 2 * m * n * k, size * (n * k + m * k) + _ACTIVATION * m * n


def moe_work(
    num_tokens: np.ndarray,
    hidden: np.ndarray,
    intermediate: np.ndarray,
    top_k: np.ndarray,
    num_experts: np.ndarray,
    moe_tp: np.ndarray,
    moe_ep: np.ndarray,
    size: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """FLOP and bytes of one GPU's share of a gated mixture of experts, weights of `size` bytes an element."""
    pairs = num_tokens * top_k / moe_ep
    touched = num_experts / moe_ep * (1 - (1 - top_k / num_experts) ** num_tokens)
    inner = intermediate / moe_tp
    weights = touched * 3 * hidden * inner * size
    moved = pairs * (2 * hidden * size + 3 * inner * _ACTIVATION) + 2 * num_tokens * hidden * _ACTIVATION
    return 6 * pairs * hidden * inner, weights + moved


def attention_work(
    batch: np.ndarray,
    isl: np.ndarray,
    step: np.ndarray,
    num_heads: np.ndarray,
    num_kv_heads: np.ndarray,
    head_dim: np.ndarray,
    size: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """FLOP and bytes of causal attention of `isl` queries after `step` cached tokens, cache of `size` bytes."""
    pairs = isl * step + isl * (isl + 1) / 2
    flop = 4 * batch * num_heads * head_dim * pairs
    queries = batch * isl * 2 * num_heads * head_dim * _ACTIVATION
    return flop, queries + batch * (step + isl) * 2 * num_kv_heads * head_dim * size
