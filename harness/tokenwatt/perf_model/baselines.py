"""What a prediction has to beat: ratios of data sheets applied to a Hopper row, and one constant for everything.

Matching row. For a case on another GPU the Hopper row of the same source and model family whose labels are nearest:
the same precision first, then the same engine, then the least sum of |log2| of the ratios of requests in flight, prompt,
output and GPUs (an unknown value is as near as any other), then the first. A case without one is not supported.

Ratio. Tokens/s of the row times r, its TPOT and TTFT over r, with r the ratio of memory bandwidths, of dense peaks (of
the precision that each multiplies in), or of TDPs. Power is the row's times the ratio of TDPs in all three, and energy
per token is power over tokens/s. `tdp_power` takes the TDP itself for power.

Constant. The median of measured over roofline, over the rows of all other model families on the same GPU, precision and
source, times the case's roofline; where there are no such rows those of the same GPU and source, then of the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pandas as pd

from tokenwatt.perf_model.predictions import OK, QUANTITIES, UNSUPPORTED, empty_answers
from tokenwatt.perf_model.score import Family, family_of_name
from tokenwatt.perf_model.weight_dtypes import compute_dtype_of
from tokenwatt.reference.facts import FactBook
from tokenwatt.reference.systems import HOPPER, load_system

Ratio = Literal["bandwidth", "peak", "tdp"]
RATIOS: tuple[Ratio, ...] = ("bandwidth", "peak", "tdp")
Roofline = Callable[[pd.DataFrame], pd.DataFrame]
"""Valid cases in; `output_tokens_per_s_per_gpu` and `tpot_s` at the ceilings out, NaN where there is no shape."""
_NEAR = ("concurrency", "isl", "osl", "num_gpus")
_FASTER = {"output_tokens_per_s_per_gpu": 1, "tpot_s": -1, "ttft_s": -1}
"""Exponent of the ratio."""
_WIDER = (["system", "weight_dtype", "source_set"], ["system", "source_set"], ["system"])


def ratio_baseline(
    kind: Ratio,
    cases: pd.DataFrame,
    known: pd.DataFrame,
    measured: pd.DataFrame,
    facts: FactBook | None = None,
    family: Family = family_of_name,
) -> pd.DataFrame:
    """Answers by one ratio.

    cases: valid rows to be predicted; known, measured: valid rows that may be matched, and what was measured of them;
    those that are not Hopper's are left alone.
    """
    match = matching_rows(cases, known, family)
    answers = empty_answers(cases.index, UNSUPPORTED, f"{kind} ratio")
    answers["reason"] = "no Hopper row of that source and model family"
    for index, source in match.dropna().items():
        there, here, row = known.loc[source], cases.loc[index], measured.loc[source]
        ratio = _ratio(kind, there, here, facts)
        values = {quantity: row[quantity] * ratio**power for quantity, power in _FASTER.items()}
        values["gpu_power_w"] = row["gpu_power_w"] * _ratio("tdp", there, here, facts)
        values["joules_per_output_token"] = values["gpu_power_w"] / values["output_tokens_per_s_per_gpu"]
        _put(answers, index, values)
    return answers


def tdp_power(cases: pd.DataFrame, facts: FactBook | None = None) -> pd.DataFrame:
    """Answers that take a board's TDP for its power, and say nothing else."""
    answers = empty_answers(cases.index, OK, "TDP as power")
    answers["predicted_gpu_power_w"] = cases["system"].map(lambda name: load_system(name, facts).tdp_w.value)
    return answers


def matching_rows(cases: pd.DataFrame, known: pd.DataFrame, family: Family = family_of_name) -> pd.Series:
    """Index of the Hopper row that stands in for each case; NaN for none."""
    hopper = known[known["system"].isin(HOPPER)]
    key = pd.Series(list(zip(hopper["source_set"], hopper["model"].map(family), strict=True)), index=hopper.index)
    groups = {name: hopper.loc[key.index[key == name]] for name in key.unique()}
    found = []
    for source, model, (_, case) in zip(cases["source_set"], cases["model"], cases.iterrows(), strict=True):
        group = groups.get((source, family(model)))
        found.append(np.nan if group is None else _nearest(case, group))
    return pd.Series(found, index=cases.index, dtype="object")


def _nearest(case: pd.Series, rows: pd.DataFrame) -> object:
    distance = sum(np.log2(rows[name].astype("float64") / float(case[name])).abs().fillna(0.0) for name in _NEAR)
    order = pd.DataFrame(
        {
            "dtype": rows["weight_dtype"] != case["weight_dtype"],
            "engine": rows["engine"] != case["engine"],
            "distance": distance,
        }
    )
    return order.sort_values(["dtype", "engine", "distance"], kind="stable").index[0]


def _ratio(kind: Ratio, there: pd.Series, here: pd.Series, facts: FactBook | None) -> float:
    """What `here` has over what `there` has."""

    def has(row: pd.Series) -> float:
        system = load_system(row["system"], facts)
        if kind == "peak":
            return system.flop_per_s(compute_dtype_of(row["weight_dtype"], row["system"], facts)).value
        return (system.hbm_bytes_per_s if kind == "bandwidth" else system.tdp_w).value

    return has(here) / has(there)


def constant_baseline(
    cases: pd.DataFrame,
    known: pd.DataFrame,
    measured: pd.DataFrame,
    roofline: Roofline,
    family: Family = family_of_name,
) -> pd.DataFrame:
    """Answers by one fraction of the roofline for each GPU, precision and source, the case's own family left out.

    known, measured: rows to take the fractions from, which may be the cases themselves.
    """
    limits, ceilings = roofline(known), roofline(cases)
    families = known["model"].map(family)
    answers = empty_answers(cases.index, UNSUPPORTED, "constant")
    answers["reason"] = "no shape, or no row of another family on that GPU"
    for quantity in ("output_tokens_per_s_per_gpu", "tpot_s"):
        fraction = (measured[quantity] / limits[quantity]).dropna()
        for index, case in cases.iterrows():
            others = fraction[(families[fraction.index] != family(case["model"]))]
            factor = _typical(others, known.loc[others.index], case)
            _put(answers, index, {quantity: factor * ceilings.at[index, quantity]})
    return answers


def _typical(fraction: pd.Series, rows: pd.DataFrame, case: pd.Series) -> float:
    for columns in _WIDER:
        same = np.logical_and.reduce([rows[name] == case[name] for name in columns])
        if same.any():
            return float(fraction[same].median())
    return float("nan")


def _put(answers: pd.DataFrame, index: object, values: dict[str, float]) -> None:
    """Enter the numbers that there are; a row with any of them is answered."""
    for quantity, value in values.items():
        if quantity in QUANTITIES and np.isfinite(value):
            answers.loc[index, [f"predicted_{quantity}", "status", "reason"]] = [value, OK, ""]
