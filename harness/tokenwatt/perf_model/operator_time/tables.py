"""Operator tables of aiconfigurator-core: one frame for each operator family, with shapes, work and measured time.

Of each table the newest version counts that is more than an addition: its rows are at least a fifth of the fullest
version's. Where a version only declares (`reuse.yaml`) that it takes an older one's rows, the older one is found here
too. Where one shape was measured with several kernels, the fastest counts, as an engine that tunes itself would choose.
"""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd

from tokenwatt.errors import UserError
from tokenwatt.perf_model.operator_time.operators import OPERATORS
from tokenwatt.perf_model.operator_time.routing import rank_load
from tokenwatt.perf_model.operator_time.work import Floats

PACKAGE = "aiconfigurator-core"
ENGINES = ("vllm", "sglang", "trtllm")
SYSTEM_OF_FOLDER = {
    "a100_sxm": "A100 SXM",
    "h100_sxm": "H100 SXM",
    "h200_sxm": "H200 SXM",
    "b200_sxm": "B200 SXM",
    "b300_sxm": "B300 SXM",
    "gb200": "GB200 NVL72",
    "gb300": "GB300 NVL72",
    "l40s": "L40S",
    "rtx_pro_6000_server": "RTX PRO 6000",
}
DTYPE_OF_TABLE = {
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "int4_wo": "int4",
    "int8_wo": "int8",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4_fp8",
    "w4afp8": "int4_fp8",
}
"""What a table calls a precision; int8 activations ("sq") are left out, for which no peak is known here."""

_LEAST_SHARE = 0.2
MS = 1e-3
"""Tables are in milliseconds, but for some of exchanges."""
# Non-gated experts are another operator; the other is an activation that no model here has.
_OTHER_KERNELS = ("nongated", "situ_as_silu")
_LATENT = {"qk_head_dim": 192.0, "v_head_dim": 128.0, "latent_dim": 512.0, "rotary_dim": 64.0}
"""Of DeepSeek-V3, with which the tables were measured."""
_TABLES = {
    "matmul": ("gemm", "gemm_perf"),
    "attention.prefill": ("attention", "context_attention_perf"),
    "attention.decode": ("attention", "generation_attention_perf"),
    "latent.prefill": ("mla", "context_mla_perf"),
    "latent.decode": ("mla", "generation_mla_perf"),
    "grouped_matmul": ("moe", "moe_perf"),
    "linear_attention.prefill": ("linear_attention", "gdn_perf"),
    "linear_attention.decode": ("linear_attention", "gdn_perf"),
}


def data_folder() -> Path:
    """Folder of the tables.

    Raises:
        UserError: the package is not installed.
    """
    spec = importlib.util.find_spec("aiconfigurator_core")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"operator tables need {PACKAGE}, which is not installed; pip install 'tokenwatt[silicon]'")
    return Path(spec.submodule_search_locations[0]) / "systems" / "data"


def package_version() -> str:
    """Version of the installed package.

    Raises:
        UserError: it is not installed.
    """
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        raise UserError(f"{PACKAGE} is not installed; pip install 'tokenwatt[silicon]'") from None


def read_operator(family: str, folder: str, engine: str) -> pd.DataFrame:
    """Rows of one compute operator on one GPU with one engine.

    Args:
        family: key of `operators.OPERATORS`, compute operators only.
        folder: key of `SYSTEM_OF_FOLDER`.
        engine: one of `ENGINES`.

    Returns:
        Columns operator, dtype, engine_version, source, the operator's shape, latency_s; no rows where there is no
        table.
    """
    area, name = _TABLES[family]
    found = newest(folder, area, engine, name)
    if found is None:
        return framed([], family)
    table, path = found
    return framed([_READERS[family](table).assign(**origin(path))], family)


def framed(frames: list[pd.DataFrame], family: str) -> pd.DataFrame:
    """One frame, the fastest kernel of each shape, in a fixed order."""
    columns = ["operator", "dtype", *OPERATORS[family].columns]
    if not frames or not any(len(frame) for frame in frames):
        return pd.DataFrame(columns=[*columns, "latency_s", "engine_version", "source"])
    frame = pd.concat(frames, ignore_index=True)
    frame = frame[np.isfinite(frame["latency_s"]) & (frame["latency_s"] > 0)]
    fastest = frame.sort_values([*columns, "latency_s"], kind="stable").drop_duplicates(columns)
    return fastest[[*columns, "latency_s", "engine_version", "source"]].reset_index(drop=True)


def origin(path: Path) -> dict[str, str]:
    """Version of the engine, and where the table lies."""
    inside = "/".join(path.parts[-5:])
    return {"engine_version": path.parts[-2], "source": f"{PACKAGE}=={package_version()}:systems/data/{inside}"}


def version_key(name: str) -> tuple[int, ...]:
    """Numbers of a version, in order: 1.3.0rc20 comes after 1.3.0rc9."""
    return tuple(int(number) for number in re.findall(r"\d+", name))


def newest(folder: str, area: str, engine: str, name: str) -> tuple[pd.DataFrame, Path] | None:
    """The table that counts, with its path; None where there is none."""
    paths = sorted(
        (data_folder() / folder / area / engine).glob(f"*/{name}.parquet"), key=lambda path: version_key(path.parts[-2])
    )
    tables = [(pd.read_parquet(path), path) for path in paths]
    if not tables:
        return None
    fullest = max(len(table) for table, _ in tables)
    return next(each for each in reversed(tables) if len(each[0]) >= _LEAST_SHARE * fullest)


def columns_of(
    operator: str, dtype: pd.Series | str, latency_s: pd.Series, **shape: pd.Series | Floats
) -> pd.DataFrame:
    """Columns of a frame, without the rows whose precision has no name here."""
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in shape.items()}
    names = dtype if isinstance(dtype, str) else dtype.to_numpy()
    frame = pd.DataFrame({"operator": operator, "dtype": names, **columns, "latency_s": latency_s.to_numpy()})
    return frame[frame["dtype"].notna()]


def _matmul(table: pd.DataFrame) -> pd.DataFrame:
    dtype = table["gemm_dtype"].map(DTYPE_OF_TABLE)
    return columns_of("matmul", dtype, table["latency"] * MS, m=table["m"], n=table["n"], k=table["k"])


def _attention_dtype(table: pd.DataFrame, computed: str) -> pd.Series:
    """bf16, fp8, or bf16_fp8 for bf16 arithmetic over an fp8 cache."""
    cached = table["kv_cache_dtype"].map(DTYPE_OF_TABLE)
    return cached.where(~((cached == "fp8") & (table[computed] == "bfloat16")), "bf16_fp8")


def _window(table: pd.DataFrame) -> pd.Series:
    return table["window_size"] if "window_size" in table else pd.Series(0, table.index)


def _attention_prefill(table: pd.DataFrame) -> pd.DataFrame:
    return columns_of(
        "attention.prefill",
        _attention_dtype(table, "attn_dtype"),
        table["latency"] * MS,
        batch=table["batch_size"],
        tokens=table["isl"],
        prefix=table["step"],
        heads=table["num_heads"],
        kv_heads=table["num_key_value_heads"],
        head_dim=table["head_dim"],
        window=_window(table),
    )


def _attention_decode(table: pd.DataFrame) -> pd.DataFrame:
    # Kernels of decode multiply in what suits them; the cache's width is what a caller knows.
    return columns_of(
        "attention.decode",
        table["kv_cache_dtype"].map(DTYPE_OF_TABLE),
        table["latency"] * MS,
        batch=table["batch_size"],
        context=table["step"] + 1,
        heads=table["num_heads"],
        kv_heads=table["num_key_value_heads"],
        head_dim=table["head_dim"],
        window=_window(table),
    )


def _constant(table: pd.DataFrame, *names: str) -> dict[str, Floats]:
    return {name: np.full(len(table), _LATENT[name]) for name in names}


def _latent_prefill(table: pd.DataFrame) -> pd.DataFrame:
    return columns_of(
        "latent.prefill",
        _attention_dtype(table, "mla_dtype"),
        table["latency"] * MS,
        batch=table["batch_size"],
        tokens=table["isl"],
        prefix=table["step"],
        heads=table["num_heads"],
        **_constant(table, "qk_head_dim", "v_head_dim"),
    )


def _latent_decode(table: pd.DataFrame) -> pd.DataFrame:
    return columns_of(
        "latent.decode",
        table["kv_cache_dtype"].map(DTYPE_OF_TABLE),
        table["latency"] * MS,
        batch=table["batch_size"],
        context=table["step"] + 1,
        heads=table["num_heads"],
        **_constant(table, "latent_dim", "rotary_dim"),
    )


def _grouped_matmul(table: pd.DataFrame) -> pd.DataFrame:
    table = table[~table["kernel_source"].str.contains("|".join(_OTHER_KERNELS))]
    # TensorRT-LLM serves a precision with its generated kernels where they exist; the others are measured beside them.
    generated = table.loc[table["kernel_source"].str.contains("min_latency"), "moe_dtype"].unique()
    table = table[~(table["moe_dtype"].isin(generated) & table["kernel_source"].str.endswith("cutlass"))]
    frames = []
    for routing, part in table.groupby("distribution"):
        copies, touched = rank_load(
            part["num_tokens"], part["num_experts"], part["topk"], part["moe_ep_size"], str(routing)
        )
        frames.append(
            columns_of(
                "grouped_matmul",
                part["moe_dtype"].map(DTYPE_OF_TABLE),
                part["latency"] * MS,
                tokens=part["num_tokens"],
                hidden=part["hidden_size"],
                intermediate=part["inter_size"] / part["moe_tp_size"],
                top_k=part["topk"],
                experts=part["num_experts"],
                ep=part["moe_ep_size"],
                copies=copies,
                touched=touched,
            )
        )
    return pd.concat(frames, ignore_index=True)


def _linear(table: pd.DataFrame, phase: str, operator: str) -> pd.DataFrame:
    """Sum of a layer's two kernels, the convolution and the rule; a shape with one of them only is left out."""
    table = table[table["phase"] == phase]
    shape = ["batch_size", "seq_len", "num_k_heads", "num_v_heads", "head_k_dim", "head_v_dim"]
    kernels = table.groupby([*shape, "kernel_source"], as_index=False)["latency"].min()
    layers = kernels.groupby(shape, as_index=False)["latency"].agg(["sum", "size"])
    layers = layers[layers["size"] == 2]
    tokens = {"tokens": layers["seq_len"]} if operator.endswith("prefill") else {}
    return columns_of(
        operator,
        "bf16",
        layers["sum"] * MS,
        batch=layers["batch_size"],
        **tokens,
        key_heads=layers["num_k_heads"],
        value_heads=layers["num_v_heads"],
        key_dim=layers["head_k_dim"],
        value_dim=layers["head_v_dim"],
    )


_READERS = {
    "matmul": _matmul,
    "attention.prefill": _attention_prefill,
    "attention.decode": _attention_decode,
    "latent.prefill": _latent_prefill,
    "latent.decode": _latent_decode,
    "grouped_matmul": _grouped_matmul,
    "linear_attention.prefill": lambda table: _linear(table, "context", "linear_attention.prefill"),
    "linear_attention.decode": lambda table: _linear(table, "generation", "linear_attention.decode"),
}
