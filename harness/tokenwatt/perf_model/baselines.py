"""What a prediction has to beat: ratios of data sheets applied to a Hopper row, and one constant for everything.

Matching row. For a case on another GPU the Hopper row of the same source and model family whose labels are nearest:
the same precision first, then the same engine, then the least sum of |log2| of the ratios of requests in flight, prompt,
output and GPUs (an unknown value is as near as any other), then the first. A case without one is not supported.

Ratio. TPOT and TTFT of the row over r, its tokens/s times r, with r the ratio of memory bandwidths, of dense peaks (of
the precision that each multiplies in), or of TDPs. With as many requests in flight an instance of fewer GPUs has more
tokens/s on each: in a closed loop tokens/s per GPU goes with GPUs of the row over GPUs of the case, too. Power is the
row's times the ratio of TDPs in all three, and energy per token is power over tokens/s.

Constant. The median of measured over roofline, over the rows of all other model families on the same GPU, precision and
source, times the case's roofline; where there are no such rows those of the same GPU and source, then of the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd

from tokenwatt.perf_model.predictions import OK, UNSUPPORTED, empty_answers
from tokenwatt.perf_model.score import Family, family_of_name
from tokenwatt.perf_model.weight_dtypes import compute_dtype_of
from tokenwatt.reference.facts import FactBook
from tokenwatt.reference.systems import HOPPER, load_system

Ratio = Literal["bandwidth", "peak", "tdp"]
RATIOS: tuple[Ratio, ...] = ("bandwidth", "peak", "tdp")
Roofline = Callable[[pd.DataFrame], pd.DataFrame]
"""Valid cases in; `output_tokens_per_s_per_gpu` and `tpot_s` at the ceilings out, NaN where there is no shape."""
_NEAR = ("concurrency", "isl", "osl", "num_gpus")
_OTHER_DTYPE, _OTHER_ENGINE = 1e6, 1e3
"""Added to a distance in octaves, so that one decides before the next."""
_WIDER = (["system", "weight_dtype", "source_set"], ["system", "source_set"], ["system"])


def ratio_baselines(
    cases: pd.DataFrame,
    known: pd.DataFrame,
    measured: pd.DataFrame,
    facts: FactBook | None = None,
    family: Family = family_of_name,
) -> dict[str, pd.DataFrame]:
    """Answers by each ratio, by the baseline's name.

    cases: valid rows to be predicted; known, measured: valid rows that may be matched, and what was measured of them;
    those that are not Hopper's are left alone.
    """
    match = matching_rows(cases, known, family).dropna()
    here, there = cases.loc[match.index], known.loc[list(match)].set_index(match.index)
    row = measured.loc[list(match)].set_index(match.index)
    of_tdp = _ratio("tdp", there, here, facts)
    spread = (there["num_gpus"] / here["num_gpus"]).where(here["scenario"] == "closed_loop", 1.0)
    answers = {}
    for kind in RATIOS:
        ratio = _ratio(kind, there, here, facts)
        speed, power = row["output_tokens_per_s_per_gpu"] * ratio * spread, row["gpu_power_w"] * of_tdp
        found = {
            "output_tokens_per_s_per_gpu": speed,
            "tpot_s": row["tpot_s"] / ratio,
            "ttft_s": row["ttft_s"] / ratio,
            "gpu_power_w": power,
            "joules_per_output_token": power / speed,
        }
        name = f"{kind} ratio"
        answers[name] = _answers(cases.index, name, found, "no Hopper row of that source and model family")
    return answers


def tdp_as_power(cases: pd.DataFrame, facts: FactBook | None = None) -> pd.DataFrame:
    """Answers that take a board's TDP for its power, and say nothing else."""
    power = cases["system"].map(lambda name: load_system(name, facts).tdp_w.value)
    return _answers(cases.index, "TDP as power", {"gpu_power_w": power}, "")


def matching_rows(cases: pd.DataFrame, known: pd.DataFrame, family: Family = family_of_name) -> pd.Series:
    """Index of the Hopper row that stands in for each case; None for none."""
    hopper = known[known["system"].isin(HOPPER)]
    groups = {key: part for key, part in hopper.groupby(["source_set", hopper["model"].map(family)])}
    found = [
        None if (group := groups.get((case["source_set"], family(case["model"])))) is None else _nearest(case, group)
        for case in cases.to_dict("records")
    ]
    return pd.Series(found, index=cases.index, dtype="object")


def _nearest(case: dict, rows: pd.DataFrame) -> object:
    distance = np.zeros(len(rows))
    for name in _NEAR:
        octaves = np.abs(np.log2(rows[name].to_numpy(dtype="float64") / float(case[name])))
        distance += np.nan_to_num(octaves)
    for name, weight in (("weight_dtype", _OTHER_DTYPE), ("engine", _OTHER_ENGINE)):
        distance += weight * (rows[name] != case[name]).to_numpy()
    return rows.index[int(distance.argmin())]


def _ratio(kind: Ratio, there: pd.DataFrame, here: pd.DataFrame, facts: FactBook | None) -> pd.Series:
    """What `here` has over what `there` has, row by row."""
    return _has(kind, here, facts) / _has(kind, there, facts)


def _has(kind: Ratio, rows: pd.DataFrame, facts: FactBook | None) -> pd.Series:
    pairs = list(zip(rows["system"], rows["weight_dtype"], strict=True))
    values = {pair: _value(kind, *pair, facts) for pair in set(pairs)}
    return pd.Series([values[pair] for pair in pairs], index=rows.index, dtype="float64")


def _value(kind: Ratio, system: str, weight_dtype: str, facts: FactBook | None) -> float:
    spec = load_system(system, facts)
    if kind == "peak":
        return spec.flop_per_s(compute_dtype_of(weight_dtype, system, facts)).value
    return (spec.hbm_bytes_per_s if kind == "bandwidth" else spec.tdp_w).value


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
    families, found = known["model"].map(family), {}
    for quantity in ("output_tokens_per_s_per_gpu", "tpot_s"):
        fractions = (measured[quantity] / limits[quantity]).dropna()
        rows = known.loc[fractions.index].assign(fraction=fractions, family=families[fractions.index])
        factor = partial(_typical, rows)
        keys = list(zip(cases["model"].map(family), *(cases[name] for name in _WIDER[0]), strict=True))
        factors = {key: factor(*key) for key in set(keys)}
        found[quantity] = pd.Series([factors[key] for key in keys], index=cases.index) * ceilings[quantity]
    return _answers(cases.index, "constant", found, "no shape, or no row of another family on that GPU")


def _typical(rows: pd.DataFrame, family: str, *place: str) -> float:
    """Median fraction of the other families' rows of that place, or of the next wider one that has any."""
    wanted = dict(zip(_WIDER[0], place, strict=True))
    others = rows[rows["family"] != family]
    for columns in _WIDER:
        same = others[np.logical_and.reduce([others[name] == wanted[name] for name in columns])]
        if len(same):
            return float(same["fraction"].median())
    return float("nan")


def _answers(index: pd.Index, method: str, found: dict[str, pd.Series], why_not: str) -> pd.DataFrame:
    """Answers of the numbers that were found; a row without any is not supported."""
    answers = empty_answers(index, UNSUPPORTED, method)
    for quantity, values in found.items():
        answers[f"predicted_{quantity}"] = values.reindex(index)
    has_any = answers[[f"predicted_{quantity}" for quantity in found]].notna().any(axis=1)
    return answers.assign(status=np.where(has_any, OK, UNSUPPORTED), reason=np.where(has_any, "", why_not))
