"""What a prediction has to beat: ratios of data sheets applied to a Hopper row, and one constant for everything.

Matching row. For a case on another GPU the Hopper row of the same source and model family whose labels are nearest:
the same precision first, then the same engine, then the least sum of |log2| of the ratios of requests in flight,
prompt, output and GPUs (an unknown value is as near as any other), then the first. A case without one is not supported.

Ratio. TPOT and TTFT of the row over r, its tokens/s times r, with r the ratio of memory bandwidths, of dense peaks (of
the precision that each multiplies in), or of TDPs. With as many requests in flight an instance of fewer GPUs has more
tokens/s on each: in a closed loop tokens/s per GPU goes with GPUs of the row over GPUs of the case, too. Power is the
row's times the ratio of TDPs in all three, and energy per token is power over tokens/s.

Constant. Measured over the matching row, or over the roofline (`baseline_roofline`): its median over the rows of all
other model families on the same GPU, precision and source, times that of the case. Where there are no such rows those
of the same GPU and source, then of the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

from tokenwatt.perf_model.baseline_roofline import ceilings
from tokenwatt.perf_model.predictions import OK, UNSUPPORTED, empty_answers
from tokenwatt.perf_model.weight_dtypes import compute_dtype_of
from tokenwatt.reference.facts import FactBook
from tokenwatt.reference.systems import HOPPER, load_system

Ratio = Literal["bandwidth", "peak", "tdp"]
RATIOS: tuple[Ratio, ...] = ("bandwidth", "peak", "tdp")
_FASTER = {"output_tokens_per_s_per_gpu": 1, "tpot_s": -1, "ttft_s": -1}
"""Exponent of the ratio."""
_NO_ROW = "no Hopper row of that source and model family"
_NEAR = ("concurrency", "isl", "osl", "num_gpus")
_OTHER_DTYPE, _OTHER_ENGINE = 1e6, 1e3
"""Added to a distance in octaves, so that one decides before the next."""
_WIDER = (["system", "weight_dtype", "source_set"], ["system", "source_set"], ["system"])


def ratio_baselines(
    cases: pd.DataFrame, known: pd.DataFrame, measured: pd.DataFrame, facts: FactBook | None = None
) -> dict[str, pd.DataFrame]:
    """Answers by each ratio, by the baseline's name.

    cases: valid rows to be predicted; known, measured: valid rows that may be matched, and what was measured of them;
    those that are not Hopper's are left alone.
    """
    match = matching_rows(cases, known).dropna()
    here, there = cases.loc[match.index], known.loc[list(match)].set_index(match.index)
    row = matched_values(cases, known, measured)
    of_tdp = _ratio("tdp", there, here, facts)
    answers = {}
    for kind in RATIOS:
        ratio = _ratio(kind, there, here, facts)
        found = {name: row[name] * ratio**power for name, power in _FASTER.items()}
        found["gpu_power_w"] = row["gpu_power_w"] * of_tdp
        answers[f"{kind} ratio"] = _answers(cases.index, f"{kind} ratio", _with_energy(found), _NO_ROW)
    return answers


def matched_values(cases: pd.DataFrame, known: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """What was measured of each case's matching row, tokens/s per GPU as on as many GPUs as the case has."""
    match = matching_rows(cases, known).dropna()
    here, there = cases.loc[match.index], known.loc[list(match)].set_index(match.index)
    spread = (there["num_gpus"] / here["num_gpus"]).where(here["scenario"] == "closed_loop", 1.0)
    row = measured.loc[list(match)].set_index(match.index)
    speed = row["output_tokens_per_s_per_gpu"] * spread
    return row.assign(output_tokens_per_s_per_gpu=speed).reindex(cases.index)


def _with_energy(found: dict[str, pd.Series]) -> dict[str, pd.Series]:
    return {**found, "joules_per_output_token": found["gpu_power_w"] / found["output_tokens_per_s_per_gpu"]}


def tdp_as_power(cases: pd.DataFrame, facts: FactBook | None = None) -> pd.DataFrame:
    """Answers that take a board's TDP for its power, and say nothing else."""
    power = cases["system"].map(lambda name: load_system(name, facts).tdp_w.value)
    return _answers(cases.index, "TDP as power", {"gpu_power_w": power}, "")


def matching_rows(cases: pd.DataFrame, known: pd.DataFrame) -> pd.Series:
    """Index of the Hopper row that stands in for each case; None for none."""
    hopper = known[known["system"].isin(HOPPER)]
    groups = {key: _Group.of(rows) for key, rows in hopper.groupby(["source_set", "family"])}
    found = [
        None if (group := groups.get((case["source_set"], case["family"]))) is None else group.nearest(case)
        for case in cases.to_dict("records")
    ]
    return pd.Series(found, index=cases.index, dtype="object")


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows of one source and family, column by column."""

    index: pd.Index
    octaves: np.ndarray
    """log2 of `_NEAR`, a row for each."""
    texts: dict[str, np.ndarray]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Self:
        octaves = np.log2(rows[list(_NEAR)].to_numpy(dtype="float64"))
        texts = {name: rows[name].to_numpy(dtype="object") for name in ("system", "weight_dtype", "engine")}
        return cls(rows.index, octaves, texts)

    def nearest(self, case: dict[Any, Any]) -> object:
        place = np.log2(np.array([case[name] for name in _NEAR], dtype="float64"))
        distance = np.nan_to_num(np.abs(self.octaves - place)).sum(axis=1)
        for name, weight in (("weight_dtype", _OTHER_DTYPE), ("engine", _OTHER_ENGINE)):
            distance += weight * (self.texts[name] != case[name])
        distance[self.texts["system"] == case["system"]] = np.inf
        return self.index[int(distance.argmin())] if np.isfinite(distance.min()) else None


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


def constant_baselines(
    cases: pd.DataFrame, known: pd.DataFrame, measured: pd.DataFrame, facts: FactBook | None = None
) -> dict[str, pd.DataFrame]:
    """Answers by one constant times the matching Hopper row, and by one times the roofline, by the baseline's name.

    known, measured: rows to match and to take the constants from, which may be the cases themselves.
    """
    on_row = matched_values(cases, known, measured), matched_values(known, known, measured)
    on_roofline = ceilings(cases, facts), ceilings(known, facts)
    answers = {}
    for name, (of_case, of_known), why_not in (
        ("constant x Hopper row", on_row, _NO_ROW),
        ("constant x roofline", on_roofline, "no row of another family on that GPU, or the model does not fit"),
    ):
        names = [quantity for quantity in (*_FASTER, "gpu_power_w") if quantity in of_case.columns]
        found = {quantity: _constant(quantity, cases, of_case, known, of_known, measured) for quantity in names}
        answers[name] = _answers(cases.index, name, _with_energy(found) if "gpu_power_w" in found else found, why_not)
    return answers


def _constant(
    quantity: str,
    cases: pd.DataFrame,
    of_case: pd.DataFrame,
    known: pd.DataFrame,
    of_known: pd.DataFrame,
    measured: pd.DataFrame,
) -> pd.Series:
    fractions = (measured[quantity] / of_known[quantity]).dropna()
    rows = known.loc[fractions.index].assign(fraction=fractions)
    keys = list(zip(cases["family"], *(cases[name] for name in _WIDER[0]), strict=True))
    factors = {key: _typical(rows, *key) for key in set(keys)}
    return pd.Series([factors[key] for key in keys], index=cases.index, dtype="float64") * of_case[quantity]


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
