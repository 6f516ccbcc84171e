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
from tokenwatt.perf_model.operator_time.operators import OPERATORS, Floats, among
from tokenwatt.perf_model.operator_time.routing import rank_load

PACKAGE = "aiconfigurator-core"
ENGINES = ("vllm", "sglang", "trtllm")
NCCL = "nccl"
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
_MS, _US = 1e-3, 1e-6
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
    found = _newest(folder, area, engine, name)
    if found is None:
        return _framed([], family)
    table, path = found
    return _framed([_READERS[family](table).assign(**_origin(path))], family)


def read_collectives(folder: str, engine: str) -> pd.DataFrame:
    """Rows of all collectives on one GPU as one engine runs them: its own all-reduce and its exchange of tokens.

    Args:
        folder: key of `SYSTEM_OF_FOLDER`.
        engine: one of `ENGINES`, or `NCCL` for the library by itself.

    Returns:
        Columns as of `read_operator`; `operator` names the number of GPUs too, and the shape is bytes and gpus.
    """
    if engine == NCCL:
        found = _newest(folder, "comm", NCCL, "nccl_perf")
        frames = []
        if found is not None:
            table, path = found
            table = table[table["nccl_dtype"] == "half"].replace({"op_name": {"alltoall": "all_to_all"}})
            frames.append(_messages(table, 2).assign(**_origin(path)))
        return _framed(frames, "all_reduce")
    frames = _exchanges(folder, engine)
    reduced = _newest(folder, "comm", engine, "custom_allreduce_perf")
    if reduced is not None:
        table, path = reduced
        table = table[~table["kernel_source"].str.contains("eager")]
        frames.append(_messages(table.assign(op_name="all_reduce"), 2).assign(**_origin(path)))
    return _framed(frames, "all_reduce")


def _framed(frames: list[pd.DataFrame], family: str) -> pd.DataFrame:
    """One frame, the fastest kernel of each shape, in a fixed order."""
    columns = ["operator", "dtype", *OPERATORS[family].columns]
    if not frames or not any(len(frame) for frame in frames):
        return pd.DataFrame(columns=[*columns, "latency_s", "engine_version", "source"])
    frame = pd.concat(frames, ignore_index=True)
    frame = frame[np.isfinite(frame["latency_s"]) & (frame["latency_s"] > 0)]
    fastest = frame.sort_values([*columns, "latency_s"], kind="stable").drop_duplicates(columns)
    return fastest[[*columns, "latency_s", "engine_version", "source"]].reset_index(drop=True)


def _origin(path: Path) -> dict[str, str]:
    inside = "/".join(path.parts[-5:])
    return {"engine_version": path.parts[-2], "source": f"{PACKAGE}=={package_version()}:systems/data/{inside}"}


def version_key(name: str) -> tuple[int, ...]:
    """Numbers of a version, in order: 1.3.0rc20 comes after 1.3.0rc9."""
    return tuple(int(number) for number in re.findall(r"\d+", name))


def _newest(folder: str, area: str, engine: str, name: str) -> tuple[pd.DataFrame, Path] | None:
    paths = sorted(
        (data_folder() / folder / area / engine).glob(f"*/{name}.parquet"), key=lambda path: version_key(path.parts[-2])
    )
    tables = [(pd.read_parquet(path), path) for path in paths]
    if not tables:
        return None
    fullest = max(len(table) for table, _ in tables)
    return next(each for each in reversed(tables) if len(each[0]) >= _LEAST_SHARE * fullest)


def _frame(operator: str, dtype: pd.Series | str, latency_s: pd.Series, **shape: pd.Series | Floats) -> pd.DataFrame:
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in shape.items()}
    names = dtype if isinstance(dtype, str) else dtype.to_numpy()
    frame = pd.DataFrame({"operator": operator, "dtype": names, **columns, "latency_s": latency_s.to_numpy()})
    return frame[frame["dtype"].notna()]


def _matmul(table: pd.DataFrame) -> pd.DataFrame:
    dtype = table["gemm_dtype"].map(DTYPE_OF_TABLE)
    return _frame("matmul", dtype, table["latency"] * _MS, m=table["m"], n=table["n"], k=table["k"])


def _attention_dtype(table: pd.DataFrame, computed: str) -> pd.Series:
    """bf16, fp8, or bf16_fp8 for bf16 arithmetic over an fp8 cache."""
    cached = table["kv_cache_dtype"].map(DTYPE_OF_TABLE)
    return cached.where(~((cached == "fp8") & (table[computed] == "bfloat16")), "bf16_fp8")


def _window(table: pd.DataFrame) -> pd.Series:
    return table["window_size"] if "window_size" in table else pd.Series(0, table.index)


def _attention_prefill(table: pd.DataFrame) -> pd.DataFrame:
    return _frame(
        "attention.prefill",
        _attention_dtype(table, "attn_dtype"),
        table["latency"] * _MS,
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
    return _frame(
        "attention.decode",
        table["kv_cache_dtype"].map(DTYPE_OF_TABLE),
        table["latency"] * _MS,
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
    return _frame(
        "latent.prefill",
        _attention_dtype(table, "mla_dtype"),
        table["latency"] * _MS,
        batch=table["batch_size"],
        tokens=table["isl"],
        prefix=table["step"],
        heads=table["num_heads"],
        **_constant(table, "qk_head_dim", "v_head_dim"),
    )


def _latent_decode(table: pd.DataFrame) -> pd.DataFrame:
    return _frame(
        "latent.decode",
        table["kv_cache_dtype"].map(DTYPE_OF_TABLE),
        table["latency"] * _MS,
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
            _frame(
                "grouped_matmul",
                part["moe_dtype"].map(DTYPE_OF_TABLE),
                part["latency"] * _MS,
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
    return _frame(
        operator,
        "bf16",
        layers["sum"] * _MS,
        batch=layers["batch_size"],
        **tokens,
        key_heads=layers["num_k_heads"],
        value_heads=layers["num_v_heads"],
        key_dim=layers["head_k_dim"],
        value_dim=layers["head_v_dim"],
    )


def _messages(table: pd.DataFrame, element_bytes: int) -> pd.DataFrame:
    """Collectives of `message_size` elements."""
    names = [among(name, gpus) for name, gpus in zip(table["op_name"], table["num_gpus"], strict=True)]
    frame = _frame(
        "",
        "bf16",
        table["latency"] * _MS,
        bytes=table["message_size"] * element_bytes,
        gpus=table["num_gpus"],
    )
    return frame.assign(operator=names)


def _exchanges(folder: str, engine: str) -> list[pd.DataFrame]:
    """Dispatch and combine of experts on several ranks, each rank with its own tokens."""
    rack = _newest(folder, "comm", engine, "trtllm_alltoall_perf")
    if rack is not None:
        return _rack_exchange(*rack)
    frames = []
    exchange = _newest(folder, "comm", engine, "moe_a2a_perf")
    if exchange is not None:
        table, path = exchange
        table = table[table["comm_dtype"].isin(["default", "bfloat16"]) & (table["node_num"] == 1)]
        for phase in ("dispatch", "combine"):
            part = table[table["phase"] == phase]
            sent = _sent_bytes(part["num_tokens"], part["topk"], part["ep_size"], part["hidden_size"])
            frames.append(_exchange(phase, part["latency"] * _US, sent, part["ep_size"]).assign(**_origin(path)))
    for name, column in (("wideep_deepep_ll_perf", "avg_t_us"), ("wideep_deepep_normal_perf", "transmit_us")):
        # These tables do not name the ranks: eight GPUs of a node. What a rack's tray of four took part in is unknown.
        if folder.startswith("gb"):
            continue
        found = _newest(folder, "comm", engine, name)
        if found is None:
            continue
        table, path = found
        table = table[table["node_num"] == 1]
        ranks = pd.Series(8, table.index)
        sent = _sent_bytes(table["num_token"], table["num_topk"], ranks, table["hidden_size"])
        for phase in ("dispatch", "combine"):
            part = _exchange(phase, table[f"{phase}_{column}"] * _US, sent, ranks)
            frames.append(part.assign(**_origin(path)))
    return frames


def _rack_exchange(table: pd.DataFrame, path: Path) -> list[pd.DataFrame]:
    """TensorRT-LLM's exchange over NVLink of a rack: preparing belongs to dispatch."""
    table = table[(table["moe_dtype"] == "bfloat16") & (table["kernel_source"] == "NVLinkTwoSided")]
    shape = ["num_tokens", "hidden_size", "topk", "num_experts", "moe_ep_size"]
    wide = table.pivot_table(index=shape, columns="op_name", values="latency", aggfunc="min").reset_index()
    wide["dispatch"] = wide["alltoall_prepare"] + wide["alltoall_dispatch"]
    wide["combine"] = wide["alltoall_combine"]
    sent = _sent_bytes(wide["num_tokens"], wide["topk"], wide["moe_ep_size"], wide["hidden_size"])
    return [
        _exchange(phase, wide[phase] * _MS, sent, wide["moe_ep_size"]).assign(**_origin(path))
        for phase in ("dispatch", "combine")
    ]


def _sent_bytes(tokens: pd.Series, top_k: pd.Series, ranks: pd.Series, hidden: pd.Series) -> pd.Series:
    """bf16 bytes of a rank's tokens, one copy for each of at most `ranks` ranks."""
    return tokens * np.minimum(top_k, ranks) * hidden * 2


def _exchange(phase: str, latency_s: pd.Series, sent: pd.Series, ranks: pd.Series) -> pd.DataFrame:
    frame = _frame("", "bf16", latency_s, bytes=sent, gpus=ranks)
    names = [among(f"moe_{phase}", int(each)) for each in ranks]
    return frame.assign(operator=names)


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
