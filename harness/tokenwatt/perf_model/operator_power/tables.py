"""Where measured operators with power come from: `aiconfigurator-core`, or a parquet file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from tokenwatt.errors import UserError

PACKAGE = "aiconfigurator-core==0.12.0"
_MODULE = "aiconfigurator_core"
_ENGINE = "vllm/0.22.0"
_BOARD = "B200"
_FOLDER = "b200_sxm"
"""The only GPU whose tables in the package have a power column."""
_RENAMED = {
    "latency": "latency_ms",
    "power": "power_w",
    "batch_size": "batch",
    "num_key_value_heads": "num_kv_heads",
    "attn_dtype": "dtype",
    "kv_cache_dtype": "kv_dtype",
    "moe_dtype": "dtype",
    "hidden_size": "hidden",
    "inter_size": "intermediate",
    "topk": "top_k",
    "moe_tp_size": "moe_tp",
    "moe_ep_size": "moe_ep",
}


def read_table(path: Path) -> pd.DataFrame:
    """A table of operators from a parquet file; its columns are described in `work`.

    Raises:
        UserError: no such file, or no parquet.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as parquet ({error})") from None


def package_table() -> pd.DataFrame:
    """Attention and mixtures of experts on B200 from the installed package; it has power of nothing else.

    Raises:
        UserError: the package is not installed.
    """
    spec = find_spec(_MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"{PACKAGE} is not installed: pip install 'tokenwatt[silicon]', or name a parquet file (--table)"
        )
    data = Path(next(iter(spec.submodule_search_locations))) / "systems" / "data" / _FOLDER
    files = {
        "context_attention": data / "attention" / _ENGINE / "context_attention_perf.parquet",
        "generation_attention": data / "attention" / _ENGINE / "generation_attention_perf.parquet",
        "moe": data / "moe" / _ENGINE / "moe_perf.parquet",
    }
    return pd.concat([_renamed(read_table(path), op) for op, path in files.items()], ignore_index=True)


def _renamed(rows: pd.DataFrame, op: str) -> pd.DataFrame:
    """Rows of one of the package's files in our columns. Windowed attention is left out: its work is another."""
    if "window_size" in rows:
        rows = rows[rows["window_size"] == 0]
    renamed = rows.rename(columns=_RENAMED)
    return renamed.assign(gpu=_BOARD, op=op, latency_s=renamed["latency_ms"] / 1e3)
