"""Every way of trying the predictor at once, on a few rows that are known to the digit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tokenwatt.perf_model.cases import check_cases, measured_columns
from tokenwatt.perf_model.fit import fit_rows, shipped_fit
from tokenwatt.perf_model.page.score_page import score_page, scores_as_plain
from tokenwatt.perf_model.page.trials import Trials, run_trials
from tokenwatt.perf_model.predict import predict_cases, predict_from_specs
from tokenwatt.perf_model.predictions import QUANTITIES, answer
from tokenwatt.perf_model.score import Scores
from tokenwatt.perf_model.scoring_run import KnownRows, score_all

SPEED = "output_tokens_per_s_per_gpu"
LOADS = (1, 2, 4, 8, 16)


def measured(models: tuple[str, ...], gpus: tuple[str, ...], factor: float, **columns: Any) -> pd.DataFrame:
    """Rows that were served `factor` times as fast as the shipped fit says."""
    rows = pd.DataFrame(
        [
            {"source_set": "inferencex", "model": model, "gpu": gpu, "num_gpus": 1, "engine": "vllm"}
            | {"isl": 1024, "osl": 1024, "concurrency": load, "weight_dtype": "fp8", **columns}
            for model in models
            for gpu in gpus
            for load in LOADS
        ],
        dtype="object",
    )
    found = answer(check_cases(rows), lambda valid: predict_cases(valid, shipped_fit()))
    faster = {SPEED: factor, "tpot_s": 1 / factor, "ttft_s": 1 / factor, "joules_per_output_token": 1 / factor}
    told = {name: found[f"predicted_{name}"].astype("float64") * faster.get(name, 1.0) for name in QUANTITIES}
    return rows.assign(**told, exclude=None)


@pytest.fixture(scope="module")
def known() -> KnownRows:
    table = measured(("Llama-3.1-8B", "Qwen3-32B"), ("H100", "H200"), 1.0)
    return KnownRows.of(check_cases(table), table)


@pytest.fixture(scope="module")
def tried() -> pd.DataFrame:
    """Rows of two GPUs, and five more that their source excludes."""
    rows = measured(("Llama-3.1-8B", "Qwen3-14B"), ("B200", "B300"), 1.25)
    wrong = measured(("Qwen3-14B",), ("B200",), 20.0).assign(exclude="drafted tokens")
    return pd.concat([rows, wrong], ignore_index=True)


@pytest.fixture(scope="module")
def trials(known: KnownRows, tried: pd.DataFrame) -> Trials:
    return run_trials(check_cases(tried), tried, known, None, False)


def of_set(scores: Scores) -> dict[str, float]:
    """Its line for tokens/s."""
    (line,) = (each for each in scores.sets.to_dict("records") if each["quantity"] == SPEED)
    return {str(name): value for name, value in line.items()}


def error(table: pd.DataFrame, answers: pd.DataFrame) -> float:
    """Of tokens/s: mean over cells of the median in each."""
    off = (answers[f"predicted_{SPEED}"].astype("float64") / table[SPEED].astype("float64") - 1).abs()
    return float(off.groupby([table["model"], table["gpu"]]).median().mean())


def test_each_way_is_that_way(trials: Trials, known: KnownRows, tried: pd.DataFrame) -> None:
    fair = tried[tried["exclude"].isna()]
    cases = check_cases(fair)
    own = pd.concat([cases.valid, measured_columns(fair)], axis=1)
    fit = fit_rows(known.rows)

    def without(rows: pd.DataFrame, column: str) -> pd.DataFrame:
        parts = [
            predict_cases(part, fit_rows(rows[rows[column] != name])) for name, part in cases.valid.groupby(column)
        ]
        return pd.concat(parts).loc[fair.index]

    pool = pd.concat([known.rows, own], ignore_index=True)
    expected = {
        "with operator tables": predict_cases(cases.valid, fit),
        "from specs only": predict_from_specs(cases.valid, fit),
        "leave one gpu out": without(pool, "system"),
        "leave one model out": without(pool, "family"),
        "model unseen": without(known.rows, "family"),
    }
    found = {
        name: {line["quantity"]: line["error"] for line in scores["sets"]}
        for name, scores in scores_as_plain(trials).items()
    }
    for name, answers in expected.items():
        assert found[name][SPEED] == pytest.approx(error(fair, answers), rel=1e-3), name
    # Five different ways: no two are the same answers by mistake.
    assert len({round(found[name][SPEED], 6) for name in expected}) == 5


def test_what_is_known_of_the_generation_helps(trials: Trials) -> None:
    # Blackwell rows are a quarter faster than Hopper's say; a fit that has seen other Blackwell rows knows some of it.
    unseen, seen = of_set(trials.with_tables)["error"], of_set(trials.left_out["gpu"])["error"]
    assert 0.1 < unseen < 0.3
    assert seen < unseen - 0.03


def test_excluded_rows_are_scored_apart_and_never_fitted_on(trials: Trials, known: KnownRows) -> None:
    assert trials.with_excluded is not None
    assert (of_set(trials.with_tables)["rows"], of_set(trials.with_excluded)["rows"]) == (20, 25)
    assert len(trials.cases.given) == 20
    # Of Qwen3-14B on B200 half of the ten rows are 16 times as fast as the others.
    cells = trials.with_excluded.cells.set_index(["family", "system", "quantity"])
    rows, off = (cells[name].to_dict()["Qwen3-14B", "B200 SXM", SPEED] for name in ("rows", "error"))
    assert (rows, off > 0.3) == (10, True)
    page = score_page(trials)
    assert "with the rows that the source excludes" in page
    assert "Tried on 20 rows of B200 SXM, B300 SXM" in page


def test_a_baseline_stands_beside_the_same_rows(trials: Trials) -> None:
    # Ratios need a Hopper row of the same model: none is of Qwen3-14B.
    ratio = trials.baselines["bandwidth ratio"]
    assert of_set(ratio)["unsupported"] == 10
    beside = trials.with_tables.where_supported(ratio)
    assert set(beside.cells["family"]) == {"Llama-3.1-8B"}
    cells = trials.with_tables.cells
    of_llama = cells[(cells["family"] == "Llama-3.1-8B") & (cells["quantity"] == SPEED)]
    assert of_set(beside)["error"] == pytest.approx(of_llama["error"].mean())


def test_rows_of_one_family_leave_no_fit_for_unseen_models(tried: pd.DataFrame) -> None:
    table = measured(("Llama-3.1-8B",), ("H100", "H200"), 1.0)
    known = KnownRows.of(check_cases(table), table)
    assert run_trials(check_cases(tried), tried, known, None, False).unseen is None


def test_without_excluded_rows_there_is_one_score(known: KnownRows, tried: pd.DataFrame) -> None:
    table = tried[tried["exclude"].isna()].drop(columns="exclude")
    cases = check_cases(table)
    answers = answer(cases, lambda valid: predict_cases(valid, shipped_fit()))
    scored = score_all(cases, table, answers, known)
    assert scored.with_excluded is None
    assert list(scored.as_json("prediction"))[:2] == ["prediction", "bandwidth ratio"]
    assert np.isfinite(scored.own.by_set()["error"].to_numpy()).all()
