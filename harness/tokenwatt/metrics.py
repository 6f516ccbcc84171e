"""Derived columns: declared once, computed from what was measured, never stored as the truth.

They are written beside the measured columns for readers of the parquet, and computed anew whenever we read it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pandas as pd


@dataclass(frozen=True, slots=True)
class Metric:
    """One derived column of the `measurements` table."""

    name: str
    unit: str
    formula: str
    """In column names, for the reader."""
    better: Literal["higher", "lower"]
    description: str
    compute: Callable[[pd.DataFrame], pd.Series]


METRICS: tuple[Metric, ...] = (
    Metric(
        "output_tokens_per_s",
        "token/s",
        "output_tokens / window_s",
        "higher",
        "Generated tokens per second.",
        lambda t: t["output_tokens"] / t["window_s"],
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
        "output_tokens / window_s / gpu_count",
        "higher",
        "Generated tokens per second and GPU; null without a GPU.",
        lambda t: t["output_tokens"] / t["window_s"] / t["gpu_count"].where(t["gpu_count"] > 0),
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
        "gpu_power_w",
        "W",
        "gpu_energy_j / window_s",
        "lower",
        "Mean board power over the window, summed over GPUs.",
        lambda t: t["gpu_energy_j"] / t["window_s"],
    ),
    Metric(
        "joules_per_output_token",
        "J/token",
        "gpu_energy_j / output_tokens",
        "lower",
        "Board energy per generated token; prefill is inside it, so read it with isl and osl.",
        lambda t: t["gpu_energy_j"] / t["output_tokens"].where(t["output_tokens"] > 0),
    ),
    Metric(
        "marginal_joules_per_output_token",
        "J/token",
        "(gpu_energy_j - gpu_idle_power_w * window_s) / output_tokens",
        "lower",
        "Same without the power that the idle boards drew before the run.",
        lambda t: (
            (t["gpu_energy_j"] - t["gpu_idle_power_w"] * t["window_s"])
            / t["output_tokens"].where(t["output_tokens"] > 0)
        ),
    ),
    Metric(
        "output_tokens_per_s_per_w",
        "token/s/W",
        "output_tokens / gpu_energy_j",
        "higher",
        "Generated tokens per second and board watt, which over one window is tokens per joule.",
        lambda t: t["output_tokens"] / t["gpu_energy_j"].where(t["gpu_energy_j"] > 0),
    ),
)


def derive(measurements: pd.DataFrame) -> pd.DataFrame:
    """Measured columns of `measurements` with every metric appended (float64; missing where an input is missing)."""
    names = [metric.name for metric in METRICS]
    measured = measurements.drop(columns=names, errors="ignore")
    inputs = measured.assign(
        **{column: pd.to_numeric(measured[column]).astype("float64") for column in _INPUTS if column in measured}
    )
    return measured.assign(**{metric.name: metric.compute(inputs).astype("float64") for metric in METRICS})


_INPUTS = (
    "output_tokens",
    "input_tokens",
    "window_s",
    "gpu_count",
    "tpot_median_s",
    "gpu_energy_j",
    "gpu_idle_power_w",
)
