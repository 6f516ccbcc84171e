"""Rows of the report's tables: numbers become text here, and a missing one says why it is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from tokenwatt.analysis.answers import answers_of
from tokenwatt.analysis.points import load_name
from tokenwatt.economics.scenario import FleetStudy
from tokenwatt.record import FleetEstimate
from tokenwatt.reference.facts import Fact, Grade
from tokenwatt.reference.ranges import CASES
from tokenwatt.schema import unit_of
from tokenwatt.units import format_si

NOTHING = "–"

FLEET_ROWS = (
    ("gpus", "GPUs"),
    ("output_tokens_per_s_per_gpu", "Tokens/s per GPU"),
    ("output_tokens_per_s_per_user", "Tokens/s per user"),
    ("output_tokens_per_s", "Tokens/s, site"),
    ("output_tokens_per_s_per_mw", "Tokens/s per MW"),
    ("gpu_power_w", "Board power per GPU"),
    ("all_in_power_w_per_gpu", "All-in power per GPU"),
    ("gpu_joules_per_output_token", "Board energy per token"),
    ("all_in_joules_per_output_token", "Facility energy per token"),
    ("usd_per_gpu_h", "GPU-hour"),
    ("usd_per_mtok", "Million tokens"),
)


def measurement_rows(measurements: pd.DataFrame) -> list[dict[str, Any]]:
    """One dictionary of text per measurement, failed ones too. Needs the columns of `perf_model.limits.add_limits`."""
    return [_measurement_row(row) for row in measurements.to_dict("records")]


def _measurement_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "id": row["measurement_id"],
        "engine": row["engine"],
        "model": _text(row["model"]),
        "weights": _weights(row["weights_source"]),
        "imported": "" if pd.isna(row["imported_from"]) else f"imported from {row['imported_from']}",
        "dtype": _text(row["dtype"]),
        "workload": row["workload"],
        "lengths": f"{number(row['isl'])} / {number(row['osl'])}",
        "asked": _asked(row),
        "answers": answers_of(row),
        "load": load_name(row),
        "speed": number(row["output_tokens_per_s"]),
        "pace": number(row["output_tokens_per_s_per_user"]),
        "ttft": format_si(maybe(row["ttft_median_s"]), "s"),
        "limit": number(row["limit_output_tokens_per_s"]),
        "bound": _text(row["limit_bound"]),
        "share": NOTHING if pd.isna(row["share_of_limit"]) else f"{row['share_of_limit']:.0%}",
        "power": format_si(maybe(row["gpu_power_w"]), "W"),
        "energy": format_si(maybe(row["joules_per_output_token"]), "J"),
        "energy_note": _energy_note(row),
        "status": _status(row),
        "reasons": words(row["reasons"]),
        "detail": "" if pd.isna(row["detail"]) else row["detail"],
    }


def _status(row: Mapping[Any, Any]) -> str:
    """The row's status, and of a good one whether it is steady, which nobody tested of an imported one."""
    if row["status"] != "ok" or row["is_stable"]:
        return str(row["status"])
    return "not stable" if pd.isna(row["imported_from"]) else "not tested"


def _weights(source: object) -> str:
    """Empty for an engine without weights, and for an imported row, which does not say."""
    return f"{source} weights" if isinstance(source, str) and source != "none" else ""


def _asked(row: Mapping[Any, Any]) -> str:
    """What sets the window apart from others of its workload; empty for an ordinary one."""
    cap_w = maybe(row["gpu_power_cap_w"])
    told = (
        "" if row["phase"] == "mixed" else str(row["phase"]),
        "" if cap_w is None else f"cap {cap_w:g} W",
        f"variant {row['variant']}" if isinstance(row["variant"], str) else "",
        f"window {row['window_index'] + 1}" if row["window_index"] else "",
    )
    return ", ".join(filter(None, told))


def _energy_note(row: Mapping[Any, Any]) -> str:
    """Why there is no energy, or why it is doubted; empty for a valid one."""
    if row["status"] != "ok":
        return "no window"
    if row["energy_status"] == "valid":
        return ""
    reasons = words(row["energy_reasons"])
    return str(row["energy_status"]).replace("_", " ") + (f": {reasons}" if reasons else "")


def fleet_table(study: FleetStudy) -> list[dict[str, Any]]:
    """One row per quantity with a cell per system: central text, low and high."""
    cases = {(row.system, row.case): row for row in study.estimates}
    return [
        {
            "label": label,
            "cells": [
                {case: quantity(name, getattr(cases[system, case], name)) for case in CASES}
                for system in study.scenario.systems
            ],
        }
        for name, label in FLEET_ROWS
    ]


def quantity(column: str, value: float) -> str:
    """A fleet quantity in words that fit a table cell.

    >>> quantity("usd_per_mtok", 0.033612), quantity("gpus", 729927.0), quantity("usd_per_gpu_h", 1.1)
    ('$0.0336', '730 k', '$1.10')
    """
    unit = unit_of(FleetEstimate, column) or ""
    if unit.startswith("USD"):
        return "$" + f"{value:#.3g}".rstrip(".")
    symbol = {"1": "", "token/s": "", "token/s/MW": "", "J/token": "J"}.get(unit, unit)
    return format_si(value, symbol).strip()


def grades(facts: Iterable[Fact]) -> list[Grade]:
    """Grades that occur among `facts`, the best first."""
    found = {fact.grade for fact in facts}
    return [grade for grade in Grade if grade in found]


def run_ids(measurements: pd.DataFrame) -> list[str]:
    """Runs that the rows came from, in their order."""
    return list(dict.fromkeys(measurements["run_id"]))


def environments(measurements: pd.DataFrame) -> list[dict[str, str]]:
    """The machines and software behind the rows, each once."""
    found = [_environment(row) for row in measurements.to_dict("records")]
    return [dict(pairs) for pairs in dict.fromkeys(tuple(each.items()) for each in found)]


def _environment(row: Mapping[Any, Any]) -> dict[str, str]:
    if isinstance(row["imported_from"], str):
        return _imported_environment(row)
    boards = f"{row['gpu_count']:g} x {row['gpu_name']}, driver {row['gpu_driver_version']}"
    ceilings = [
        format_si(maybe(row["ceiling_memory_bytes_per_s"]), "B/s"),
        format_si(maybe(row["ceiling_flop_per_s"]), f"flop/s {_text(row['dtype'])}"),
    ]
    return {
        "GPU": boards if isinstance(row["gpu_name"], str) else "none",
        "CPU": f"{row['cpu_name']}, {row['cpu_count']:g} processors",
        "System": f"{row['os_name']}, Python {row['python_version']}",
        "Libraries": f"torch {_text(row['torch_version'])}, Triton {_text(row['triton_version'])}",
        "Measured ceilings": ", ".join(ceilings),
        "tokenwatt": f"{row['tokenwatt_version']}, commit {_text(row['git_commit'])}",
    }


def _imported_environment(row: Mapping[Any, Any]) -> dict[str, str]:
    """What is known of a machine that tokenwatt has not seen."""
    return {
        "GPU": f"{number(row['gpu_count'])} x {_text(row['gpu_name'])}",
        "Known by": f"{row['imported_from']}, and who imported it; of the rest of the machine nothing is known",
        "tokenwatt": f"{row['tokenwatt_version']}, which imported the row",
    }


def number(value: object) -> str:
    """A count or rate with a thousands separator and about four digits.

    >>> number(12345.6), number(61.234), number(0.1234), number(None)
    ('12,346', '61.2', '0.123', '–')
    """
    found = maybe(value)
    if found is None:
        return NOTHING
    return f"{found:,.0f}" if abs(found) >= 100 else f"{found:.3g}"


def amount(value: float, symbol: str) -> str:
    """A value with its unit, or a plain number with four digits.

    >>> amount(0.0667, "J"), amount(12345.6, "")
    ('66.7 mJ', '12,346')
    """
    return format_si(value, symbol) if symbol else number(value)


def span(low: float, high: float, symbol: str) -> str:
    """Both ends of an interval, the unit once where they share it.

    >>> span(0.591, 0.609, "J"), span(0.9, 1.1, "J"), span(891, 909, "")
    ('591 to 609 mJ', '900 mJ to 1.10 J', '891 to 909')
    """
    first, last = amount(low, symbol), amount(high, symbol)
    value, _, unit = first.partition(" ")
    return f"{value} to {last}" if last.endswith(f" {unit}") else f"{first} to {last}"


def percent(share: float) -> str:
    """A share in percent.

    >>> percent(0.0612)
    '6.1 %'
    """
    return f"{share * 100:.1f} %"


def maybe(value: Any) -> float | None:
    """A number of a table, or None where it is missing."""
    return None if value is None or pd.isna(value) else float(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else NOTHING


def words(reasons: Sequence[str] | None) -> str:
    """Reasons as a reader wants them; empty for none.

    >>> words(["sample_gap", "mig"])
    'sample gap, mig'
    """
    return "" if reasons is None else ", ".join(reason.replace("_", " ") for reason in reasons)
