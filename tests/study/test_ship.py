"""Making the shipped fit: intervals that hold what they are made to hold, and what they hold of unseen families."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tokenwatt.perf_model.cases import check_cases, measured_columns
from tokenwatt.perf_model.fit import shipped_fit
from tokenwatt.perf_model.predict import predict_cases
from tokenwatt.perf_model.predictions import QUANTITIES, answer
from tokenwatt.perf_model.ship import COVERAGE, calibrated, held

SPEED = "output_tokens_per_s_per_gpu"


@pytest.fixture(scope="module")
def tried() -> pd.DataFrame:
    """Four families on two GPUs, each cell off by a factor of its own and each row by another."""
    random = np.random.default_rng(5)
    rows = pd.DataFrame(
        [
            {"model": model, "gpu": gpu, "num_gpus": 1, "engine": "vllm", "concurrency": load, "weight_dtype": "fp8"}
            for model in ("Qwen3-8B", "Qwen3-32B", "Llama-3.3-70B", "Qwen3-30B-A3B")
            for gpu in ("B200", "B300")
            for load in (1, 2, 4, 8, 16, 32, 64, 128)
        ],
        dtype="object",
    )
    found = answer(check_cases(rows), lambda valid: predict_cases(valid, shipped_fit()))
    off = np.exp(np.repeat(random.normal(0, 0.2, 8), 8) + random.normal(0, 0.1, len(rows)))
    told = rows.assign(**{name: found[f"predicted_{name}"].astype("float64") * off for name in QUANTITIES})
    return pd.concat([check_cases(told).valid, measured_columns(told)], axis=1)


def test_intervals_hold_the_rows_that_they_are_made_for(tried: pd.DataFrame) -> None:
    fit = calibrated(shipped_fit(), tried)
    answers = predict_cases(tried, fit)
    for name in (SPEED, "tpot_s"):
        measured = tried[name].to_numpy(dtype=np.float64)
        low, high = (answers[f"predicted_{name}{end}"].to_numpy(dtype=np.float64) for end in ("_low", "_high"))
        assert np.mean((low <= measured) & (measured <= high)) == pytest.approx(COVERAGE, abs=0.05)
    # No parameter comes from the rows.
    assert fit.log_parameters == shipped_fit().log_parameters
    assert fit.power == shipped_fit().power


def test_what_is_held_of_families_that_calibration_has_not_seen(tried: pd.DataFrame) -> None:
    fit = shipped_fit()
    families = sorted(set(tried["family"]))
    unseen = {
        family: replace(fit, cells=tuple(cell for cell in fit.cells if cell.place.family != family))
        for family in families
    }
    found = held(fit, tried, unseen)
    assert set(found.index.get_level_values("quantity")) == set(QUANTITIES)
    assert (found["cells"] == 8).all()
    assert found["coverage"].between(0.3, 1).all()
    # What was not fitted on is less sure.
    width = found["width"].to_dict()
    assert width["", SPEED, False] > width["", SPEED, True] > 1.2
    # One family that is like no other widens the intervals of the others.
    strange = tried.copy()
    strange.loc[strange["family"] == "Qwen3-8B", list(QUANTITIES)] *= 2.5
    assert (held(fit, strange, unseen)["width"] > found["width"]).all()
