"""The predictor as a whole: order of intervals, what helps and what does not, ways, refusals, recovery of a fit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tokenwatt.cli import app
from tokenwatt.errors import UserError
from tokenwatt.perf_model.cases import MEASURED, check_cases, measured_columns
from tokenwatt.perf_model.engine_model import multipliers, of_groups, priors, served
from tokenwatt.perf_model.fit import (
    Fit,
    at_expected,
    fit_as_json,
    fit_from_json,
    fit_rows,
    plannable,
    planned,
    shipped_fit,
)
from tokenwatt.perf_model.gpu_names import system_of_gpu
from tokenwatt.perf_model.operation_kinds import DECODE, TERMS
from tokenwatt.perf_model.plan import plan_case
from tokenwatt.perf_model.predict import predict_cases, predict_from_specs
from tokenwatt.perf_model.predictions import PREDICTED, QUANTITIES, answer
from tokenwatt.perf_model.shape_library import library_names
from tokenwatt.reference.facts import load_facts
from tokenwatt.reference.systems import load_system

SPEED = "output_tokens_per_s_per_gpu"
GOOD = {"model": "Qwen3-32B", "gpu": "H100", "num_gpus": 4, "tp": 4, "isl": 1024, "osl": 1024, "concurrency": 32}
MIXTURE = {"model": "Qwen3-235B-A22B", "num_gpus": 8, "tp": 8, "weight_dtype": "fp8"}


def table(*changes: dict[str, Any]) -> pd.DataFrame:
    """Rows that differ from GOOD so."""
    return pd.DataFrame([GOOD | {"weight_dtype": "bf16"} | each for each in changes], dtype="object")


def predicted(*changes: dict[str, Any], fit: Fit | None = None) -> pd.DataFrame:
    """Answers to such rows, with short names."""
    by = shipped_fit() if fit is None else fit
    found = answer(check_cases(table(*changes)), lambda valid: predict_cases(valid, by))
    return found.rename(columns=lambda name: name.removeprefix("predicted_"))


cases = st.fixed_dictionaries(
    {
        "model": st.sampled_from(library_names()),
        "gpu": st.sampled_from(sorted(load_facts().subjects)),
        "num_gpus": st.sampled_from([1, 2, 4, 8]),
        "tp": st.none(),
        "engine": st.sampled_from(["vllm", "SGLang", "TRT-LLM", "another", None]),
        "source_set": st.sampled_from(["inferencex", "mlenergy", None]),
        "weight_dtype": st.sampled_from([None, "bf16", "fp8", "fp4", "mxfp4", "int4", "int8"]),
        "concurrency": st.one_of(st.none(), st.integers(1, 20_000)),
        "isl": st.integers(1, 50_000),
        "osl": st.integers(1, 20_000),
    }
)


@given(st.lists(cases, min_size=1, max_size=12))
@settings(max_examples=30)
def test_each_case_is_refused_with_a_reason_or_answered_in_order(rows):
    found = predicted(*rows)
    for _, row in found.iterrows():
        if row["status"] == "refused":
            assert row["reason"]
            assert "\n" not in row["reason"]
            continue
        for name in QUANTITIES:
            assert 0 < row[f"{name}_low"] <= row[name] <= row[f"{name}_high"] < math.inf
        assert row["joules_per_output_token"] == pytest.approx(row["gpu_power_w"] / row[SPEED])
    systems = check_cases(table(*rows)).valid["system"] if (found["status"] == "ok").any() else pd.Series(dtype=object)
    answers = found.to_dict("index")
    for index, system in systems.items():
        if answers[index]["status"] == "ok":
            limit = load_system(str(system)).tdp_w.range
            assert answers[index]["gpu_power_w"] < limit.central
            assert answers[index]["gpu_power_w_high"] <= limit.high


# Valid, and unusual.
ODD: list[dict[str, Any]] = [
    {"osl": 1},
    {"isl": 1, "osl": 1},
    {"isl": 100_000, "concurrency": 4},
    {"concurrency": 1_000_000},
    {"concurrency": 0.5},
    {"model": "Llama-3.1-8B", "gpu": "A100", "weight_dtype": "int8"},
    {"model": "Qwen3-30B-A3B", "gpu": "A100", "weight_dtype": "int8"},
    {"model": "gpt-oss-20b", "gpu": "L40S", "num_gpus": 1, "tp": 1, "weight_dtype": None},
    {"model": "Llama-3.1-8B", "weight_dtype": "mxfp4", "gpu": "B200"},
    {"num_gpus": 64, "tp": 64, "concurrency": 8},  # beyond a domain of 8
    {"model": "DeepSeek-V3", "gpu": "H200", "num_gpus": 16, "tp": 1, "dp": 16, "ep": 16, "weight_dtype": "fp8"},
    {"engine": "one of our own"},
    {"engine": "SGLang", "source_set": "mlenergy"},
    {"draft_tokens": 0},
    {"draft_tokens": 3, "accepted_length": 2.2},
]


def test_unusual_cases_are_answered():
    found = predicted(*ODD)
    assert list(found["reason"]) == [""] * len(ODD)
    assert found[list(QUANTITIES)].notna().all(axis=None)


def test_one_bad_plan_spoils_no_other():
    found = predicted(
        {}, {"accepted_length": 2}, {"isl": 10_000_000}, {"model": "DeepSeek-V3", "weight_dtype": "fp8"}, {}
    )
    assert list(found["status"]) == ["ok", "refused", "refused", "refused", "ok"]
    assert "accepted_length 2 must be from 1" in found["reason"][1]
    assert "of cache of one sequence on each GPU" in found["reason"][2]
    assert "GB of weights on each GPU, H100 has" in found["reason"][3]
    assert found.loc[0, SPEED] == found.loc[4, SPEED] == predicted({}).loc[0, SPEED]


@pytest.mark.parametrize("case", [{}, MIXTURE, {"model": "Llama-3.1-8B", "num_gpus": 1, "tp": 1}])
def test_a_better_gpu_is_not_slower(case):
    # H200: the same peak as H100, more bandwidth and memory. The cells' own residuals are another matter.
    plain = replace(shipped_fit(), cells=())
    loads = [{"concurrency": load} for load in (1, 16, 128, 1024)]
    old, new = (predicted(*[case | load | {"gpu": gpu} for load in loads], fit=plain) for gpu in ("H100", "H200"))
    assert (new["tpot_s"] <= old["tpot_s"] * 1.01)[:2].all()  # later H200 runs more at once
    assert (new[SPEED] >= old[SPEED] * 0.99).all()


def test_more_requests_never_serve_much_less_until_memory_is_full():
    for case in ({}, MIXTURE):
        rows = table(*[case | {"concurrency": 2**power} for power in range(13)])
        plans = [plan_case(row) for row in check_cases(rows).valid.to_dict("records")]
        fitting = [int(plan.concurrency) for plan in plans if plan.batch == plan.waits]
        assert len(fitting) >= 6
        found = predicted(*[case | {"concurrency": load} for load in fitting])
        assert (found[SPEED].to_numpy()[1:] > 0.97 * found[SPEED].to_numpy()[:-1]).all()
        # Prompts of one chunk share the reading of the weights, so that two may be answered before one alone.
        assert (found["ttft_s"].to_numpy()[1:] > 0.85 * found["ttft_s"].to_numpy()[:-1]).all()


def test_methods():
    found = predicted({"gpu": "H100"}, {"gpu": "B200"}, {"gpu": "VR NVL72"}, {"gpu": "Rubin Ultra NVL144"})
    assert list(found["method"]) == ["silicon", "silicon", "specs", "specs"]
    width = np.log(found[f"{SPEED}_high"] / found[f"{SPEED}_low"])
    assert width[2] > width[1]


def test_from_specs_a_generation_has_no_tables():
    valid = check_cases(table({"gpu": "B200"}, {"gpu": "H100"}, {"gpu": "VR NVL72"})).valid
    with_tables, without = predict_cases(valid, shipped_fit()), predict_from_specs(valid, shipped_fit())
    assert list(without["method"]) == ["specs"] * 3
    assert list(without.index) == list(valid.index)
    name = f"predicted_{SPEED}"
    assert (without[name] != with_tables[name])[:2].all()
    # All of Blackwell, not the one system: excluding B200 alone leaves its relatives' tables.
    only = predict_cases(valid[:1], replace(shipped_fit(), exclude_gpus=("B200 SXM",)))
    assert only["method"].iloc[0] == "specs"
    assert only[name].iloc[0] != without[name].iloc[0]


def known(**columns: Any) -> pd.DataFrame:
    """Two models on two systems at several loads with measured values, ready to be fitted on."""
    rows = table(
        *[
            {"model": model, "gpu": gpu, "concurrency": load, "engine": "vllm", **columns}
            for model in ("Qwen3-32B", "Llama-3.1-8B")
            for gpu in ("H100", "H200")
            for load in (1, 4, 16, 64)
        ]
    )
    found = answer(check_cases(rows), lambda valid: predict_cases(valid, shipped_fit()))
    return rows.assign(**{name: found[f"predicted_{name}"] for name in QUANTITIES})


def fit_on(rows: pd.DataFrame) -> Fit:
    return fit_rows(pd.concat([check_cases(rows).valid, measured_columns(rows)], axis=1))


def test_rows_of_the_fit_answer_equal_cases():
    rows = known()
    rows["ttft_s"] = None  # nobody measured it
    fit = fit_on(rows)
    found = predicted({"engine": "vllm", "concurrency": 4}, {"engine": "vllm", "concurrency": 5}, fit=fit)
    assert list(found["method"]) == ["measured", "silicon"]
    row = rows[(rows["model"] == "Qwen3-32B") & (rows["gpu"] == "H100") & (rows["concurrency"] == 4)].iloc[0]
    for name in (SPEED, "tpot_s", "gpu_power_w", "joules_per_output_token"):
        assert found[name][0] == pytest.approx(row[name])
    assert found["ttft_s"].notna().all()
    # Drafted tokens, or another split of pools, are other operating points.
    other = predicted({"engine": "vllm", "concurrency": 4, "draft_tokens": 3, "accepted_length": 2}, fit=fit)
    assert other["method"][0] == "silicon"
    # An equal case is one too where other cases leave cells of the same column empty.
    beside = predicted({"engine": "vllm", "concurrency": 4}, {"engine": "vllm", "concurrency": None}, fit=fit)
    assert beside["method"][0] == "measured"


def test_notes_on_limits_are_of_the_numbers_that_are_given() -> None:
    rows = known()
    fit = fit_on(rows)
    row = rows[(rows["model"] == "Qwen3-32B") & (rows["gpu"] == "H100") & (rows["concurrency"] == 4)].iloc[0]
    asked = {"engine": "vllm", "concurrency": 4}
    central = predicted(asked | {"concurrency": 5}, fit=fit)["tpot_s"][0]
    limit = (row["tpot_s"] + central) / 2
    cases = check_cases(table(asked | {"tpot_limit_s": limit})).valid
    same = fit.known.assign(tpot_limit_s=limit) if fit.known is not None else None
    found = predict_cases(cases, replace(fit, known=same)).iloc[0]
    assert found["method"] == "measured"
    assert ("TPOT is over" in found["assumptions"]) == (found["predicted_tpot_s"] > limit)


def test_a_run_of_other_length_or_limits_is_another_case():
    offline = {"model": "Llama-3.1-8B", "num_gpus": 1, "tp": 1, "concurrency": None, "scenario": "offline"}
    rows = table(offline | {"num_requests": 100}).assign(**{SPEED: 1000.0, "tpot_s": 0.02, "gpu_power_w": 600.0})
    fit = fit_on(pd.concat([known(), rows], ignore_index=True))
    same, longer = (predicted(offline | {"num_requests": number}, fit=fit) for number in (100, 100_000))
    assert (same["method"][0], longer["method"][0]) == ("measured", "silicon")


def test_rows_faster_than_their_gpus_are_not_fitted_on():
    rows = known()
    fitted = fit_on(rows)
    rows.loc[0, SPEED] = 1e5  # a cached prompt, drafted tokens: no label tells
    rows.loc[0, "tpot_s"] = 1e-4
    without = fit_on(rows)
    assert (fitted.rows, without.rows) == (16, 15)
    # Nor does it answer: it was another operating point than it says.
    found = predicted({"engine": "vllm", "concurrency": 1}, fit=without)
    assert (found["method"][0], found["tpot_s"][0] > 1e-3) == ("silicon", True)


def test_a_series_of_such_rows_is_not_believed_in_part():
    rows = known()
    first = (rows["model"] == "Llama-3.1-8B") & (rows["gpu"] == "H200")
    rows.loc[first & (rows["concurrency"] >= 4), [SPEED]] *= 3.0
    rows.loc[first & (rows["concurrency"] >= 4), ["tpot_s"]] /= 3.0
    fit = fit_on(rows)
    assert fit.rows == 12
    assert not [cell for cell in fit.cells if (cell.place.family, cell.place.system) == ("Llama-3.1-8B", "H200 SXM")]


def test_few_rows_make_no_interval_narrower():
    rows = known()
    fit = fit_on(rows)
    assert all(fit.row_log_sd[name] >= shipped_fit().row_log_sd[name] for name in QUANTITIES)


def test_ranks_of_a_dense_model_are_as_many_gpus_apart():
    alone, many = predicted(
        {"num_gpus": 1, "tp": 1, "model": "Llama-3.1-8B", "concurrency": 32},
        {"num_gpus": 8, "tp": 1, "model": "Llama-3.1-8B", "concurrency": 256},
    ).to_dict("records")
    for name in (SPEED, "tpot_s", "ttft_s"):
        assert many[name] == pytest.approx(alone[name])


def test_joules_are_watts_over_speed_where_those_were_measured():
    rows = known().assign(joules_per_output_token=None)
    found = predicted({"engine": "vllm", "concurrency": 4}, fit=fit_on(rows)).iloc[0]
    assert found["method"] == "measured"
    joules = found["joules_per_output_token"]
    assert joules == pytest.approx(found["gpu_power_w"] / found[SPEED])
    assert found["joules_per_output_token_low"] < joules < found["joules_per_output_token_high"]


def test_no_engine_serves_more_than_the_tensor_cores_compute():
    prompts = [
        {"engine": engine, "isl": 4096, "osl": osl, "concurrency": 64, "gpu": gpu}
        for engine in ("vllm", "sglang", "trtllm")
        for osl in (1, 2, 16, 128)
        for gpu in ("H200", "B200")
    ]
    found = predicted(*prompts)
    parameters = 32.8e9
    for case, speed in zip(prompts, found[SPEED], strict=True):
        flop = 2 * parameters * speed * (1 + case["isl"] / case["osl"])
        assert flop < 0.9 * load_system(system_of_gpu(case["gpu"])).flop_per_s("bfloat16").value, case


def test_nothing_moves_its_bytes_faster_than_the_memory():
    sizes = {"num_gpus": 8, "tp": None, "isl": 2048, "osl": 512, "weight_dtype": None}
    rows = table(
        *(
            sizes | {"model": model, "gpu": gpu, "engine": engine, "concurrency": load}
            for model in library_names()
            for gpu, engine in (("A100", "trtllm"), ("H200", "sglang"), ("B200", "vllm"))
            for load in (8, 2000)
        )
    )
    valid = check_cases(rows.assign(source_set="mlenergy")).valid
    _, plans = plannable(valid)
    assert len(plans) > 250
    cases = planned(plans)
    bandwidth = np.array([load_system(plan.system).hbm_bytes_per_s.value for plan in plans])
    share = cases.base.streamed()[:, DECODE] / bandwidth / at_expected(shipped_fit(), cases).decode_s
    assert share.max() <= 1 + 1e-9
    # They are no floors far below: some memory is read at most of its speed.
    assert share.max() > 0.7


def test_intervals_know_the_board_s_limit_and_what_stages_share():
    found = predicted({"gpu": "B200"}, {"gpu": "VR NVL72"})
    reach = np.log(found["gpu_power_w"] / found["gpu_power_w_low"])
    assert reach[1] > reach[0] + 0.01  # 1800 to 2300 W

    def carried(stages: int) -> float:
        split = {"gpu": "VR NVL72", "num_gpus": 8, "tp": 8 // stages, "pp": stages, "concurrency": 8}
        (answer_of,) = predicted(split).to_dict("records")
        return math.log(answer_of[f"{SPEED}_high"] / answer_of[SPEED])

    assert carried(8) > 0.8 * carried(1)


def test_measured_columns_are_never_read(tmp_path: Path):
    rows = known(case_id="a")
    shuffled = rows.assign(**{name: rows[name].sample(frac=1, random_state=1).to_numpy() for name in QUANTITIES})
    without = rows.drop(columns=[name for name in MEASURED if name in rows])
    answers = []
    for number, given_rows in enumerate((rows, shuffled, without, rows.assign(tpot_s="a word", mean_batch=-1))):
        place = tmp_path / f"{number}.csv"
        given_rows.to_csv(place, index=False)
        done = CliRunner().invoke(app, ["predict", str(place), "-o", str(tmp_path / f"{number}.out.csv")])
        assert done.exit_code == 0, done.output
        answers.append((tmp_path / f"{number}.out.csv").read_bytes())
        pd.testing.assert_frame_equal(check_cases(given_rows).valid, check_cases(without).valid)
    assert answers.count(answers[0]) == 4


def test_parameters_are_found_again_beside_outliers():
    # What the engine model says with a host of 4 ms, 60 us a sequence and experts at 1.3 of their curves is measured.
    rows = table(
        *[
            {"model": model, "gpu": gpu, "concurrency": load, "weight_dtype": "fp8", "engine": "vllm", "osl": osl}
            for model in ("Qwen3-30B-A3B", "Qwen3-235B-A22B", "Llama-3.1-8B", "Llama-3.1-70B", "Qwen3-32B")
            for gpu in ("H100", "H200")
            for load in (1, 4, 16, 64, 256)
            for osl in (256, 1024)
        ]
    )
    valid = check_cases(rows).valid
    kept, plans = zip(*[(i, plan) for i, row in valid.iterrows() if (plan := _plan(row)) is not None], strict=True)
    truth = {"host_s:vllm": 4e-3, "per_sequence_s:vllm": 6e-5, "experts:vllm": 1.3}
    vector = np.log([truth.get(prior.name, prior.median) for prior in priors()])
    case = planned(list(plans))
    now = served(vector, case.loop)
    measured = pd.DataFrame(math.nan, index=list(kept), columns=list(MEASURED))
    measured["tpot_s"], measured[SPEED] = now.tpot_s, now.tokens_per_s_per_gpu
    measured.iloc[::10] *= [0.5 if name == SPEED else 2.0 for name in MEASURED]  # a tenth is wrong by two
    fit = fit_rows(pd.concat([valid.loc[list(kept)], measured], axis=1))
    again = served(fit.vector, case.loop)
    good = np.arange(len(plans)) % 10 > 0
    off = np.abs(np.log(again.tpot_s / now.tpot_s))[good]
    assert np.median(off) < 0.05
    assert off.max() < 0.15
    assert of_groups(fit.vector, "host_s")[0] == pytest.approx(4e-3, rel=0.25)
    assert of_groups(fit.vector, "per_sequence_s")[0] == pytest.approx(6e-5, rel=0.35)
    assert multipliers(fit.vector)[0, TERMS.index("experts.fp8")] == pytest.approx(1.3, rel=0.1)


def _plan(row: pd.Series) -> Any:
    try:
        return plan_case(row.to_dict())
    except UserError:
        return None


def test_nothing_to_fit_on():
    rows = known()
    with pytest.raises(UserError, match="none has output_tokens_per_s_per_gpu or tpot_s"):
        fit_on(rows.assign(**{SPEED: None, "tpot_s": None}))
    too_large = rows.assign(model="DeepSeek-V3", weight_dtype="fp8", num_gpus=1, tp=1)
    with pytest.raises(UserError, match="none says how a model that fits its GPUs is run"):
        fit_on(too_large)


def test_a_fit_comes_back_from_its_file():
    fit = shipped_fit()
    again = fit_from_json(json.loads(json.dumps(fit_as_json(fit))))
    assert again == fit
    own = fit_on(known())
    back = fit_from_json(json.loads(json.dumps(fit_as_json(own))))
    np.testing.assert_allclose(back.vector, own.vector, rtol=1e-5, atol=1e-9)
    valid = check_cases(table({"concurrency": 7})).valid
    numbers = [predict_cases(valid, each)[list(PREDICTED)].to_numpy(dtype=float) for each in (own, back)]
    np.testing.assert_allclose(*numbers, rtol=1e-3)


def test_the_shipped_fit_is_made_of_sound_numbers():
    fit = shipped_fit()
    assert set(fit.log_parameters) == {prior.name for prior in priors()}
    assert np.isfinite(fit.vector).all()
    assert np.isfinite(fit.power).all()
    positive = [*vars_of(fit.spreads), *fit.row_log_sd.values(), *fit.widen.values(), fit.rows]
    assert all(0 < value < math.inf for value in positive)
    assert 0 <= fit.carried <= 1
    assert all(math.isfinite(cell.residual) and cell.rows > 0 for cell in fit.cells)
    assert fit.known is None


def vars_of(spreads: Any) -> list[float]:
    return [getattr(spreads, name) for name in spreads.__dataclass_fields__]
