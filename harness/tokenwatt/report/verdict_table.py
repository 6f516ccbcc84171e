"""The table of verdicts: what both instruments said of each window, and what the boards were doing in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tokenwatt.analysis.points import names
from tokenwatt.record import LOAD_COLUMNS
from tokenwatt.report.tables import NOTHING, maybe, number, words
from tokenwatt.units import format_si


def verdict_summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many windows have which verdict.

    >>> verdict_summary([{"status": "valid"}, {"status": "suspect"}, {"status": "valid"}])
    '2 valid, 1 suspect'
    """
    statuses = [row["status"] for row in rows]
    return ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))


def verdict_rows(measurements: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per window that a meter was open for, or was meant to be."""
    metered = measurements[
        (measurements["energy_status"] != "no_meter") | (measurements["node_energy_status"] != "no_meter")
    ]
    named = metered.assign(name=names(metered, ("engine", "model", "workload", *LOAD_COLUMNS.values())))
    return [_verdict_row(row) for row in named.to_dict("records")]


def _verdict_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    status = str(row["energy_status"])
    return {
        "id": row["measurement_id"],
        "name": row["name"],
        "window": int(row["window_index"]),
        "status": status.replace("_", " "),
        "reasons": words(row["energy_reasons"]),
        "energy": _with_half_width(row["gpu_energy_j"], row["gpu_energy_half_width_j"]),
        "per_gpu": _per_gpu(row["gpu_energy_by_gpu_j"]),
        "counter": _si(row["gpu_energy_counter_j"], "J"),
        "sampled": _si(row["gpu_energy_sampled_j"], "J"),
        "difference": _signed_share(row["gpu_energy_relative_difference"]),
        "power": _si(row["gpu_power_w"], "W"),
        "peak": _si(row["gpu_power_peak_w"], "W"),
        "standing": " / ".join(number(row[column]) for column in _STANDING) + " W",
        "limit": _of(row["gpu_power_limit_w"], row["gpu_power_limit_default_w"]),
        "sm_clock": _mean_and_min(row["gpu_sm_clock_hz"], row["gpu_sm_clock_min_hz"]),
        "memory_clock": _mean_and_min(row["gpu_memory_clock_hz"], row["gpu_memory_clock_min_hz"]),
        "temperature": _start_to_end(row["gpu_temperature_start_c"], row["gpu_temperature_end_c"]),
        "slope": _slope(row["gpu_temperature_slope_c_per_s"]),
        "throttle": words(row["throttle_reasons"]) or "none",
        "others": NOTHING if pd.isna(row["gpu_other_processes"]) else str(int(row["gpu_other_processes"])),
        "ecc": NOTHING if pd.isna(row["gpu_ecc"]) else "on" if row["gpu_ecc"] else "off",
        "node": _si(row["node_energy_j"], "J"),
        "node_note": _node_note(row),
    }


_STANDING = ("gpu_idle_power_w", "gpu_static_power_w", "gpu_idle_power_after_w")


def _per_gpu(energies_j: Sequence[float]) -> str:
    """The summands of several GPUs; empty for one."""
    return " + ".join(format_si(float(each), "J") for each in energies_j) if len(energies_j) > 1 else ""


def _si(value: Any, symbol: str) -> str:
    return format_si(maybe(value), symbol)


def _with_half_width(energy_j: Any, half_width_j: Any) -> str:
    half = maybe(half_width_j)
    return _si(energy_j, "J") if half is None else f"{_si(energy_j, 'J')} ± {format_si(half, 'J', 2)}"


def _signed_share(value: Any) -> str:
    return NOTHING if pd.isna(value) else f"{value * 100:+.2f} %"


def _of(limit_w: Any, default_w: Any) -> str:
    return NOTHING if pd.isna(limit_w) else f"{limit_w:g} of {NOTHING if pd.isna(default_w) else f'{default_w:g}'} W"


def _mean_and_min(mean_hz: Any, min_hz: Any) -> str:
    least = "" if pd.isna(min_hz) else f", least {_si(min_hz, 'Hz')}"
    return NOTHING if pd.isna(mean_hz) else _si(mean_hz, "Hz") + least


def _start_to_end(start_c: Any, end_c: Any) -> str:
    return NOTHING if pd.isna(start_c) or pd.isna(end_c) else f"{start_c:.0f} to {end_c:.0f} °C"


def _slope(slope_c_per_s: Any) -> str:
    return "" if pd.isna(slope_c_per_s) else f"{slope_c_per_s * 60:+.2f} °C/min"


def _node_note(row: Mapping[Any, Any]) -> str:
    """The node meter and its verdict; empty where none was asked for."""
    if not isinstance(row["node_meter"], str):
        return ""
    reasons = words(row["node_energy_reasons"])
    return f"{row['node_meter']}, {str(row['node_energy_status']).replace('_', ' ')}" + (
        f": {reasons}" if reasons else ""
    )
