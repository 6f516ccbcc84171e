"""Rows that `tokenwatt bench` measured, as rows that can be predicted, scored and fitted on."""

from __future__ import annotations

import numpy as np
import pandas as pd

MARK = "measurement_id"
"""A column that only our own tables of measurements have."""
_SAME = ("model", "engine", "engine_version", "isl", "osl", "concurrency", "tp", "joules_per_output_token")
_FROM = {
    "case_id": MARK,
    "gpu": "gpu_name",
    "num_gpus": "gpu_count",
    "ttft_s": "ttft_mean_s",
    "tpot_s": "tpot_median_s",
}


def rows_of_measurements(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the `measurements` table (`store.read`) in the columns of `cases`.

    Windows that failed, that are a phase alone or that ran without a GPU are left out: none is an operating point of a
    GPU. Energy that is not valid counts as not measured.
    """
    keep = (table["status"] == "ok") & (table["phase"] == "mixed") & (table["gpu_count"].fillna(0) > 0)
    rows = table[keep].reset_index(drop=True)
    gpus = rows["gpu_count"].astype("float64")
    is_valid = rows["energy_status"] == "valid"
    quantized = rows["quantization"].where(rows["quantization"].notna() & (rows["quantization"] != "none"))
    return pd.DataFrame(
        {
            **{name: rows[source] for name, source in _FROM.items()},
            **{name: rows[name] for name in _SAME},
            "source_set": "tokenwatt",
            "scenario": "closed_loop",
            "weight_dtype": quantized.fillna(rows["dtype"]),
            "output_tokens_per_s_per_gpu": rows["output_tokens_per_s"] / gpus,
            "gpu_power_w": (rows["gpu_power_w"] / gpus).where(is_valid, np.nan),
            "joules_per_output_token": rows["joules_per_output_token"].where(is_valid, np.nan),
        }
    )
