"""pytest-benchmark cases of the predictor: 1,000 cases, 1,000 racks whose split and batch are open, a refit.

Run with --benchmark-enable; without it each case runs once, as a test.
"""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from tokenwatt.perf_model.cases import check_cases, measured_columns
from tokenwatt.perf_model.fit import fit_rows, shipped_fit
from tokenwatt.perf_model.predict import predict_cases
from tokenwatt.perf_model.predictions import QUANTITIES, answer

pytestmark = pytest.mark.slow
CASES = 1000


def many() -> pd.DataFrame:
    """Models, GPUs, loads and lengths, each with each, shuffled; every one fits."""
    models = ("Llama-3.1-8B", "Llama-3.1-70B", "Qwen3-32B", "Qwen3-30B-A3B", "DeepSeek-V3", "GLM-5")
    gpus = ("H200", "B200", "GB300", "VR NVL72")
    names = ("model", "gpu", "concurrency", "isl", "osl")
    rows = itertools.product(models, gpus, (1, 4, 16, 64, 256, 1024), (128, 1024, 8192), (128, 1024, 4096))
    table = pd.DataFrame(list(rows), columns=list(names), dtype="object").sample(CASES, random_state=0)
    return table.assign(num_gpus=8, tp=8, weight_dtype="fp8", engine="vllm").reset_index(drop=True)


def test_a_thousand_cases(benchmark):
    table = many()

    def run() -> pd.DataFrame:
        return answer(check_cases(table), lambda valid: predict_cases(valid, shipped_fit()))

    found = benchmark.pedantic(run, rounds=3)
    assert list(found["status"]) == ["ok"] * CASES


def test_a_thousand_racks_under_limits(benchmark):
    models = ("DeepSeek-R1", "Llama-3.1-405B", "gpt-oss-120b", "Llama-3.1-70B", "Qwen3-235B-A22B")
    names = ("model", "gpu", "num_gpus", "tpot_limit_s", "isl")
    rows = itertools.product(models, ("GB300", "VR NVL72"), (8, 72), (0.01, 0.03, 0.1), range(100, 1900, 100))
    table = pd.DataFrame(list(rows)[:CASES], columns=list(names), dtype="object")
    table = table.assign(scenario="interactive", ttft_limit_s=2, osl=512, engine="trtllm")

    def run() -> pd.DataFrame:
        return answer(check_cases(table), lambda valid: predict_cases(valid, shipped_fit()))

    found = benchmark.pedantic(run, rounds=1)
    assert list(found["status"]) == ["ok"] * CASES


def test_a_refit_on_a_thousand_rows(benchmark):
    table = many()
    cases = check_cases(table)
    found = answer(cases, lambda valid: predict_cases(valid, shipped_fit()))
    measured = table.assign(**{name: found[f"predicted_{name}"] for name in QUANTITIES})
    rows = pd.concat([cases.valid, measured_columns(measured)], axis=1)
    fit = benchmark.pedantic(fit_rows, args=(rows,), rounds=3)
    assert fit.rows == CASES
