"""Tables of collectives: an engine's own all-reduce, NCCL's, and the exchange of tokens between ranks with experts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tokenwatt.perf_model.operator_time.operators import among
from tokenwatt.perf_model.operator_time.tables import MS, columns_of, framed, newest, origin

NCCL = "nccl"
_US = 1e-6


def read_collectives(folder: str, engine: str) -> pd.DataFrame:
    """Rows of all collectives on one GPU as one engine runs them: its own all-reduce and its exchange of tokens.

    Args:
        folder: key of `SYSTEM_OF_FOLDER`.
        engine: one of `ENGINES`, or `NCCL` for the library by itself.

    Returns:
        Columns as of `read_operator`; `operator` names the number of GPUs too, and the shape is bytes and gpus.
    """
    if engine == NCCL:
        found = newest(folder, "comm", NCCL, "nccl_perf")
        frames = []
        if found is not None:
            table, path = found
            table = table[table["nccl_dtype"] == "half"].replace({"op_name": {"alltoall": "all_to_all"}})
            frames.append(_messages(table, 2).assign(**origin(path)))
        return framed(frames, "all_reduce")
    frames = _exchanges(folder, engine)
    reduced = newest(folder, "comm", engine, "custom_allreduce_perf")
    if reduced is not None:
        table, path = reduced
        table = table[~table["kernel_source"].str.contains("eager")]
        frames.append(_messages(table.assign(op_name="all_reduce"), 2).assign(**origin(path)))
    return framed(frames, "all_reduce")


def _messages(table: pd.DataFrame, element_bytes: int) -> pd.DataFrame:
    """Collectives of `message_size` elements."""
    names = [among(name, gpus) for name, gpus in zip(table["op_name"], table["num_gpus"], strict=True)]
    frame = columns_of(
        "",
        "bf16",
        table["latency"] * MS,
        bytes=table["message_size"] * element_bytes,
        gpus=table["num_gpus"],
    )
    return frame.assign(operator=names)


def _exchanges(folder: str, engine: str) -> list[pd.DataFrame]:
    """Dispatch and combine of experts on several ranks, each rank with its own tokens."""
    rack = newest(folder, "comm", engine, "trtllm_alltoall_perf")
    if rack is not None:
        return _rack_exchange(*rack)
    frames = []
    exchange = newest(folder, "comm", engine, "moe_a2a_perf")
    if exchange is not None:
        table, path = exchange
        table = table[table["comm_dtype"].isin(["default", "bfloat16"]) & (table["node_num"] == 1)]
        for phase in ("dispatch", "combine"):
            part = table[table["phase"] == phase]
            sent = _sent_bytes(part["num_tokens"], part["topk"], part["ep_size"], part["hidden_size"])
            frames.append(_exchange(phase, part["latency"] * _US, sent, part["ep_size"]).assign(**origin(path)))
    for name, column in (("wideep_deepep_ll_perf", "avg_t_us"), ("wideep_deepep_normal_perf", "transmit_us")):
        # These tables do not name the ranks: eight GPUs of a node. What a rack's tray of four took part in is unknown.
        if folder.startswith("gb"):
            continue
        found = newest(folder, "comm", engine, name)
        if found is None:
            continue
        table, path = found
        table = table[table["node_num"] == 1]
        ranks = pd.Series(8, table.index)
        sent = _sent_bytes(table["num_token"], table["num_topk"], ranks, table["hidden_size"])
        for phase in ("dispatch", "combine"):
            part = _exchange(phase, table[f"{phase}_{column}"] * _US, sent, ranks)
            frames.append(part.assign(**origin(path)))
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
        _exchange(phase, wide[phase] * MS, sent, wide["moe_ep_size"]).assign(**origin(path))
        for phase in ("dispatch", "combine")
    ]


def _sent_bytes(tokens: pd.Series, top_k: pd.Series, ranks: pd.Series, hidden: pd.Series) -> pd.Series:
    """bf16 bytes of a rank's tokens, one copy for each of at most `ranks` ranks."""
    return tokens * np.minimum(top_k, ranks) * hidden * 2


def _exchange(phase: str, latency_s: pd.Series, sent: pd.Series, ranks: pd.Series) -> pd.DataFrame:
    frame = columns_of("", "bf16", latency_s, bytes=sent, gpus=ranks)
    names = [among(f"moe_{phase}", int(each)) for each in ranks]
    return frame.assign(operator=names)
