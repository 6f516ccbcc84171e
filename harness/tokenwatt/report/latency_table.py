"""The table of latencies: what users waited for, from mean to tail, with goodput and price where asked for."""

from __future__ import annotations

from typing import Any

import pandas as pd

from tokenwatt.analysis.points import ASKED, groups, names
from tokenwatt.report.tables import NOTHING, maybe, number, percent
from tokenwatt.units import format_si

LATENCIES = ("ttft", "tpot", "itl", "e2el")
WORDS = ("mean", "median", "p90", "p95", "p99", "p99_9")
"""What is said of each, in the words of its columns."""


def latency_rows(measurements: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per point and latency, each a mean over the point's good windows; points without any are left out."""
    good = measurements[(measurements["status"] == "ok") & measurements["e2el_median_s"].notna()]
    named = good.assign(name=names(good))
    return [row for rows in groups(named, (*ASKED, "point_id")) for row in _point_rows(rows)]


def _point_rows(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "name": rows["name"].iloc[0] if place == 0 else "",
            "notes": _notes(rows) if place == 0 else "",
            "span": len(LATENCIES),
            "latency": latency.upper(),
            "cells": [format_si(maybe(rows[f"{latency}_{word}_s"].mean()), "s") for word in WORDS],
        }
        for place, latency in enumerate(LATENCIES)
    ]


def _notes(rows: pd.DataFrame) -> str:
    """Rate, goodput, lag and price in words."""
    told = [f"{number(rows['requests_per_s'].mean())} req/s"]
    attained, goodput = maybe(rows["slo_attainment"].mean()), maybe(rows["goodput_requests_per_s"].mean())
    if attained is not None and goodput is not None:
        told.append(f"{number(goodput)} good ones, {percent(attained)} ({_limits(rows)})")
    price = maybe(rows["usd_per_mtok_output"].mean())
    told += [] if price is None else [f"{price:.3g} USD per million output tokens"]
    failed = int(rows["requests_failed"].fillna(0).max())
    told += [f"{failed} failed"] if failed else []
    return "; ".join(told)


def _limits(rows: pd.DataFrame) -> str:
    limits = {name: maybe(rows[f"slo_{name}_s"].iloc[0]) for name in ("ttft", "tpot", "e2el")}
    told = [f"{name.upper()} {format_si(value, 's')}" for name, value in limits.items() if value is not None]
    return ", ".join(told) or NOTHING
