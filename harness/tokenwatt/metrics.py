"""Derived columns: declared once, computed from what was measured, never stored as the truth.

They are written beside the measured columns for readers of the parquet, and computed anew whenever we read it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from tokenwatt.record import OUR_KERNEL, KernelTiming, Measurement, MeteredRun


@dataclass(frozen=True, slots=True)
class Metric:
    """One derived column of a table."""

    name: str
    unit: str
    formula: str
    """In column names, for the reader."""
    better: Literal["higher", "lower"]
    description: str
    compute: Callable[[pd.DataFrame], pd.Series]


GPU_POWER = Metric(
    "gpu_power_w",
    "W",
    "gpu_energy_j / window_s",
    "lower",
    "Mean board power over the window, summed over GPUs.",
    lambda t: t["gpu_energy_j"] / t["window_s"],
)

JOULES_PER_OUTPUT_TOKEN = Metric(
    "joules_per_output_token",
    "J/token",
    "gpu_energy_j / output_tokens",
    "lower",
    "Board energy per generated token; prefill is inside it, so read it with isl and osl.",
    lambda t: t["gpu_energy_j"] / t["output_tokens"].where(t["output_tokens"] > 0),
)

METRICS: tuple[Metric, ...] = (
    Metric(
        "output_tokens_per_s",
        "token/s",
        "output_tokens / window_s, unless phase = prefill",
        "higher",
        "Generated tokens per second; null for prefill, where requests end with their first token.",
        lambda t: t["output_tokens"] / t["window_s"].where(t["phase"] != "prefill"),
    ),
    Metric(
        "input_tokens_per_s",
        "token/s",
        "input_tokens / window_s, unless phase = decode",
        "higher",
        "Prompt tokens per second; null for decode, which has no prompts.",
        lambda t: t["input_tokens"] / t["window_s"].where(t["phase"] != "decode"),
    ),
    Metric(
        "total_tokens_per_s",
        "token/s",
        "(input_tokens + output_tokens) / window_s",
        "higher",
        "Prompt and generated tokens per second.",
        lambda t: (t["input_tokens"] + t["output_tokens"]) / t["window_s"],
    ),
    Metric(
        "output_tokens_per_s_per_gpu",
        "token/s",
        "output_tokens_per_s / gpu_count",
        "higher",
        "Generated tokens per second and GPU; null without a GPU, and for prefill.",
        lambda t: t["output_tokens"] / t["window_s"].where(t["phase"] != "prefill") / _gpus(t),
    ),
    Metric(
        "input_tokens_per_s_per_gpu",
        "token/s",
        "input_tokens_per_s / gpu_count",
        "higher",
        "Prompt tokens per second and GPU; null without a GPU, and for decode.",
        lambda t: t["input_tokens"] / t["window_s"].where(t["phase"] != "decode") / _gpus(t),
    ),
    Metric(
        "total_tokens_per_s_per_gpu",
        "token/s",
        "total_tokens_per_s / gpu_count",
        "higher",
        "Prompt and generated tokens per second and GPU; null without a GPU.",
        lambda t: (t["input_tokens"] + t["output_tokens"]) / t["window_s"] / _gpus(t),
    ),
    Metric(
        "requests_per_s",
        "request/s",
        "requests_completed / window_s",
        "higher",
        "Requests completed per second.",
        lambda t: t["requests_completed"] / t["window_s"],
    ),
    Metric(
        "goodput_requests_per_s",
        "request/s",
        "requests_within_slo / window_s",
        "higher",
        "Requests completed per second that kept every limit of the service level; null without one.",
        lambda t: t["requests_within_slo"] / t["window_s"],
    ),
    Metric(
        "slo_attainment",
        "1",
        "requests_within_slo / requests_judged",
        "higher",
        "Share of requests that kept every limit of the service level; null without one.",
        lambda t: t["requests_within_slo"] / t["requests_judged"].where(t["requests_judged"] > 0),
    ),
    Metric(
        "usd_per_mtok_output",
        "USD/Mtoken",
        "usd_per_gpu_h * gpu_count / 3600 / output_tokens_per_s * 1e6, phase = mixed alone",
        "lower",
        "Price of the GPUs per million generated tokens, prompts inside it; null without a price or a GPU.",
        lambda t: t["usd_per_gpu_h"] * _gpus(t) / 3600 * t["window_s"] / _output_tokens(t, "mixed") * 1e6,
    ),
    Metric(
        "output_tokens_per_s_per_user",
        "token/s",
        "1 / tpot_median_s",
        "higher",
        "Interactivity: the pace at which one user sees tokens.",
        lambda t: 1.0 / t["tpot_median_s"].where(t["tpot_median_s"] > 0),
    ),
    Metric(
        "fraction_of_limit",
        "1",
        "max(flop / ceiling_flop_per_s, bytes / ceiling_memory_bytes_per_s) / window_s / max(gpu_count, 1)",
        "higher",
        "Least time that this machine's measured ceilings allow for the work of the window's steps, as its share.",
        lambda t: _limit_s(t) / t["window_s"] / t["gpu_count"].clip(lower=1),
    ),
    GPU_POWER,
    Metric(
        "joules_per_output_token",
        "J/token",
        "gpu_energy_j / output_tokens, phase = mixed alone",
        "lower",
        "Board energy per generated token; prefill is inside it, so read it with isl and osl.",
        lambda t: t["gpu_energy_j"] / _output_tokens(t, "mixed"),
    ),
    Metric(
        "marginal_joules_per_output_token",
        "J/token",
        "(gpu_energy_j - mean(gpu_idle_power_w, gpu_idle_power_after_w where known) * window_s) / output_tokens,"
        " phase = mixed alone",
        "lower",
        "Same without the power that the idle boards drew: before the run, and after it where that is known.",
        lambda t: (t["gpu_energy_j"] - _idle_power_w(t) * t["window_s"]) / _output_tokens(t, "mixed"),
    ),
    Metric(
        "prefill_joules_per_input_token",
        "J/token",
        "gpu_energy_j / input_tokens, phase = prefill alone",
        "lower",
        "Board energy per prompt token where nothing but prompts is computed.",
        lambda t: t["gpu_energy_j"] / t["input_tokens"].where((t["phase"] == "prefill") & (t["input_tokens"] > 0)),
    ),
    Metric(
        "decode_joules_per_output_token",
        "J/token",
        "gpu_energy_j / output_tokens, phase = decode alone",
        "lower",
        "Board energy per generated token where no prompt is computed, at the mean context of the mixed point.",
        lambda t: t["gpu_energy_j"] / _output_tokens(t, "decode"),
    ),
    Metric(
        "output_tokens_per_s_per_w",
        "token/s/W",
        "output_tokens / gpu_energy_j, phase = mixed alone",
        "higher",
        "Generated tokens per second and board watt, which over one window is tokens per joule.",
        lambda t: t["output_tokens"] / t["gpu_energy_j"].where((t["gpu_energy_j"] > 0) & (t["phase"] == "mixed")),
    ),
)


def _gpus(rows: pd.DataFrame) -> pd.Series:
    """GPUs behind each row; missing where there is none."""
    return rows["gpu_count"].where(rows["gpu_count"] > 0)


def _output_tokens(rows: pd.DataFrame, phase: str) -> pd.Series:
    """Generated tokens of the rows of one phase; missing elsewhere, and where there are none."""
    return rows["output_tokens"].where((rows["phase"] == phase) & (rows["output_tokens"] > 0))


def _idle_power_w(rows: pd.DataFrame) -> pd.Series:
    """Idle power before the run, or the mean of before and after where both are known."""
    before_w, after_w = rows["gpu_idle_power_w"], rows["gpu_idle_power_after_w"]
    return (before_w + after_w.fillna(before_w)) / 2


def _limit_s(timings: pd.DataFrame) -> pd.Series:
    """Least time of one call at the ceilings of its machine."""
    compute_s = timings["flop"] / timings["ceiling_flop_per_s"]
    memory_s = timings["bytes"] / timings["ceiling_memory_bytes_per_s"]
    return compute_s.where(compute_s > memory_s, memory_s)


def _median_of_ours_s(timings: pd.DataFrame) -> pd.Series:
    """Median of our kernel in the same contest."""
    ours = timings["median_s"].where(timings["contender"] == OUR_KERNEL)
    return ours.groupby([timings[key] for key in ("run_id", "family", "problem", "dtype")]).transform("max")


KERNEL_METRICS: tuple[Metric, ...] = (
    Metric(
        "flop_per_s",
        "flop/s",
        "flop / median_s",
        "higher",
        "Unavoidable operations per second of device time.",
        lambda t: t["flop"] / t["median_s"],
    ),
    Metric(
        "bytes_per_s",
        "byte/s",
        "bytes / median_s",
        "higher",
        "Unavoidable memory traffic per second of device time.",
        lambda t: t["bytes"] / t["median_s"],
    ),
    Metric(
        "fraction_of_limit",
        "1",
        "max(flop / ceiling_flop_per_s, bytes / ceiling_memory_bytes_per_s) / median_s",
        "higher",
        "Least time that this machine's measured ceilings allow, as a share of the median.",
        lambda t: _limit_s(t) / t["median_s"],
    ),
    Metric(
        "time_over_ours",
        "1",
        "median_s / (median_s of contender tokenwatt in the same run, family, problem and dtype)",
        "higher",
        "Above 1 our kernel is faster.",
        lambda t: t["median_s"] / _median_of_ours_s(t),
    ),
    GPU_POWER,
    Metric(
        "joules_per_call",
        "J",
        "gpu_energy_j / window_calls",
        "lower",
        "Board energy per call of a busy loop, L2 warm; idle power is inside it.",
        lambda t: t["gpu_energy_j"] / t["window_calls"],
    ),
)

METER_METRICS: tuple[Metric, ...] = (GPU_POWER, JOULES_PER_OUTPUT_TOKEN)

METRICS_OF: dict[str, tuple[Metric, ...]] = {
    Measurement.grain: METRICS,
    KernelTiming.grain: KERNEL_METRICS,
    MeteredRun.grain: METER_METRICS,
}
"""Tables that have derived columns."""


def derive(table: pd.DataFrame, metrics: tuple[Metric, ...] = METRICS) -> pd.DataFrame:
    """Measured columns of a table with its metrics appended (float64; missing where an input is missing)."""
    measured = table.drop(columns=[metric.name for metric in metrics], errors="ignore")
    inputs = measured.assign(
        **{column: pd.to_numeric(measured[column]).astype("float64") for column in _INPUTS if column in measured}
    )
    return measured.assign(**{metric.name: metric.compute(inputs).astype("float64") for metric in metrics})


_INPUTS = (
    "output_tokens",
    "input_tokens",
    "window_s",
    "gpu_count",
    "tpot_median_s",
    "gpu_energy_j",
    "gpu_idle_power_w",
    "gpu_idle_power_after_w",
    "flop",
    "bytes",
    "median_s",
    "ceiling_flop_per_s",
    "ceiling_memory_bytes_per_s",
    "window_calls",
    "requests_completed",
    "requests_judged",
    "requests_within_slo",
    "usd_per_gpu_h",
)
