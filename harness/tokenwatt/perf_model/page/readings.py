"""What the rows that are predicted worst have in common, and what their labels do not tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tokenwatt.perf_model.page.markdown import QUANTITY_NAMES


@dataclass(frozen=True, slots=True)
class Reading:
    """One kind of row."""

    name: str
    applies: Callable[[pd.DataFrame], pd.Series]
    """Which rows of `described` it is about."""
    text: str


READINGS = (
    Reading(
        "time to first token",
        lambda rows: (rows["source_set"] == "inferencex") & (rows["quantity"] == "ttft_s"),
        "TTFT of a closed loop is mostly waiting for other prompts, so it depends on how a client starts its requests. "
        "Its interval says so: it is as wide as the rows made it.",
    ),
    Reading(
        "drafted tokens",
        lambda rows: (
            (rows["source_set"] == "inferencex")
            & (rows["family"] == "DeepSeek-V3")
            & (rows["engine"] == "trtllm")
            & (rows["isl"] == 4000)
        ),
        "DeepSeek on TensorRT-LLM, 4,000 tokens in and 1,000 out. DeepSeek brings a layer that drafts tokens, and no "
        "label says whether it ran: rows of like labels lie several times apart, which no predictor that reads labels "
        "can follow. They are read as drafting nothing. Fast rows may have drafted; why others are slow nobody says.",
    ),
    Reading(
        "long prompts on B300",
        lambda rows: (
            (rows["source_set"] == "inferencex")
            & (rows["family"] == "DeepSeek-V3")
            & (rows["system"] == "B300 SXM")
            & (rows["isl"] > 4000)
        ),
        "DeepSeek with SGLang on B300, 8,192 tokens in. Steps were published longer than those of B200 with the same "
        "engine, although every limit of B300 is as high: the run had a state that its labels do not carry.",
    ),
    Reading(
        "NVFP4 experts on one GPU",
        lambda rows: (rows["source_set"] == "trtllm") & (rows["family"] == "Qwen3-30B-A3B"),
        "Qwen3-30B-A3B in NVFP4 on one GPU, as many sequences as fit. Steps of a small mixture are short enough for "
        "the host to show, where thousands run at once; rows of the older release are the furthest off.",
    ),
    Reading(
        "TP4 and TP8 of a mixture",
        lambda rows: (
            (rows["source_set"] == "trtllm") & rows["task"].isin(["TP4", "TP8"]) & (rows["family"] != "Llama-3.1-70B")
        ),
        "TensorRT-LLM's tables label a mixture of experts TP4 or TP8 and ask for attention data "
        "parallel in the options "
        "beside the table. They are read as attention data parallel with experts spread over the GPUs, which fits the "
        "Hopper rows better; a row that was run as labelled would be slower than predicted.",
    ),
    Reading(
        "boards that wait",
        lambda rows: (
            (rows["source_set"] == "mlenergy")
            & (rows["task"] == "gpqa")
            & rows["family"].isin(["Qwen3-30B-A3B", "Qwen3-14B"])
        ),
        "Reasoning (gpqa) on one B200. Measured speed and measured power are both far below the prediction, while "
        "chat rows of the same model are not: as if the board waited for its host. No label says why.",
    ),
    Reading(
        "queues beyond the batch",
        lambda rows: (rows["source_set"] == "mlenergy") & (rows["concurrency"] >= 2048),
        "Thousands of requests in flight, more than an engine's default limit of running sequences. All that fit are "
        "taken to run; whoever was allowed fewer had a queue that no label tells.",
    ),
)
"""The first one that applies to a row names it."""
UNREAD = "no reading"
_LABELS = ("engine", "weight_dtype", "task", "isl", "osl", "concurrency", "num_gpus")


def described(rows: pd.DataFrame, valid: pd.DataFrame) -> pd.DataFrame:
    """Scored rows (`Scores.rows`) with labels of their cases, and the name of their reading in `reading`."""
    labels = valid.reindex(columns=list(_LABELS)).reindex(rows["row"])
    joined = rows.assign(**{name: labels[name].to_numpy() for name in _LABELS})
    names = pd.Series(UNREAD, index=joined.index, dtype="object")
    for reading in reversed(READINGS):
        names = names.mask(reading.applies(joined).fillna(False).astype(bool), reading.name)
    return joined.assign(reading=names)


def read_worst(rows: pd.DataFrame, least_log_error: float) -> list[str]:
    """A line for each reading that a row of `described` rows has which is off by that much, with how far."""
    off = rows[rows["log_ratio"].abs() >= least_log_error]
    lines = []
    for reading in READINGS:
        part = rows[rows["reading"] == reading.name]
        if not len(off[off["reading"] == reading.name]):
            continue
        # One quantity tells how far: TPOT lies on the other side of 1.
        quantity = next(name for name in QUANTITY_NAMES if (part["quantity"] == name).any())
        ratios = part.loc[part["quantity"] == quantity, "log_ratio"]
        low, middle, high = np.exp(ratios.quantile([0.0, 0.5, 1.0]))
        of_what = f"{QUANTITY_NAMES[quantity]} predicted / measured"
        far = f"{len(ratios)} rows, {of_what} {low:.2f} to {high:.2f}, median {middle:.2f}"
        lines.append(f"- **{reading.name}** ({far}). {reading.text}\n")
    return lines
