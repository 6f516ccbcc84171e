"""Baselines on rows worked out by hand, and aiconfigurator-core by a stand-in process."""

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tokenwatt.errors import UserError
from tokenwatt.perf_model import aiconfigurator
from tokenwatt.perf_model.baseline_roofline import ceilings
from tokenwatt.perf_model.baselines import constant_baselines, matching_rows, ratio_baselines, tdp_as_power
from tokenwatt.perf_model.cases import check_cases, measured_columns
from tokenwatt.perf_model.shape_library import model_shape

BASE = {
    "source_set": "s",
    "engine": "vllm",
    "weight_dtype": "bf16",
    "num_gpus": 4,
    "isl": 1024,
    "osl": 1024,
    "concurrency": 16,
}


def rows(*changes: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Valid rows, and their measured columns."""
    table = pd.DataFrame([BASE | change for change in changes])
    cases = check_cases(table)
    assert not cases.refused
    return cases.valid, measured_columns(table)


def test_ratios_of_the_data_sheet() -> None:
    known, measured = rows(
        {
            "model": "Qwen3-32B",
            "gpu": "H100",
            "output_tokens_per_s_per_gpu": 100.0,
            "tpot_s": 0.04,
            "gpu_power_w": 500.0,
        }
    )
    cases, _ = rows({"model": "Qwen3-32B", "gpu": "B200", "num_gpus": 2})
    found = ratio_baselines(cases, known, measured)
    # 8 over 3.35 TB/s; half as many GPUs do the same work.
    line = found["bandwidth ratio"].iloc[0]
    assert line["predicted_tpot_s"] == pytest.approx(0.04 * 3.35 / 8)
    assert line["predicted_output_tokens_per_s_per_gpu"] == pytest.approx(100 * 8 / 3.35 * 2)
    # 1000 over 700 W.
    assert line["predicted_gpu_power_w"] == pytest.approx(500 * 10 / 7)
    assert line["predicted_joules_per_output_token"] == pytest.approx(500 * 10 / 7 / (200 * 8 / 3.35))
    assert pd.isna(line["predicted_ttft_s"])
    # 2250 over 989 TFLOP/s, in bfloat16 both.
    assert found["peak ratio"].iloc[0]["predicted_tpot_s"] == pytest.approx(0.04 * 989 / 2250)
    assert found["tdp ratio"].iloc[0]["predicted_tpot_s"] == pytest.approx(0.04 * 0.7)
    assert tdp_as_power(cases).iloc[0]["predicted_gpu_power_w"] == 1000


def test_the_peak_is_that_of_each_precision() -> None:
    known, measured = rows({"model": "Qwen3-32B", "gpu": "H200", "weight_dtype": "fp8", "tpot_s": 1.0})
    cases, _ = rows({"model": "Qwen3-32B", "gpu": "B200", "weight_dtype": "fp4"})
    found = ratio_baselines(cases, known, measured)["peak ratio"].iloc[0]
    assert found["predicted_tpot_s"] == pytest.approx(1.979 / 9)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({}, 0),
        ({"weight_dtype": "fp8"}, 1),  # the same precision before everything
        ({"concurrency": 60}, 2),  # 64 is nearer than 16
        ({"engine": "sglang", "concurrency": 60}, 3),  # the same engine before the nearest load
        ({"source_set": "other"}, None),
        ({"model": "Qwen3-14B"}, None),
        ({"gpu": "H200"}, 0),
        ({"gpu": "H100"}, None),  # a row does not stand in for its own GPU
    ],
)
def test_which_row_matches(changes: dict[str, Any], match: int | None) -> None:
    known, _ = rows(
        {"model": "Qwen/Qwen3-32B", "gpu": "H100"},
        {"model": "Qwen/Qwen3-32B-FP8", "gpu": "H100", "weight_dtype": "fp8", "concurrency": 512},
        {"model": "Qwen/Qwen3-32B", "gpu": "H100", "concurrency": 64},
        {"model": "Qwen/Qwen3-32B", "gpu": "H100", "engine": "sglang"},
        {"model": "Qwen/Qwen3-32B", "gpu": "B200"},
    )
    cases, _ = rows({"model": "Qwen3-32B", "gpu": "B200"} | changes)
    assert matching_rows(cases, known).iloc[0] == match


def test_what_has_no_match_is_not_supported() -> None:
    known, measured = rows({"model": "Qwen3-32B", "gpu": "H100", "tpot_s": 1.0})
    cases, _ = rows({"model": "Qwen3-14B", "gpu": "B200"})
    found = ratio_baselines(cases, known, measured)["tdp ratio"].iloc[0]
    assert (found["status"], found["reason"]) == ("unsupported", "no Hopper row of that source and model family")


def test_the_constant_has_not_seen_the_family() -> None:
    known, measured = rows(
        {"model": "Qwen3-32B", "gpu": "H100", "tpot_s": 1.0},
        {"model": "Qwen3-14B", "gpu": "H100", "tpot_s": 1.0},
        {"model": "Qwen3-8B", "gpu": "H100", "tpot_s": 1.0},
        {"model": "Qwen3-32B", "gpu": "B200", "tpot_s": 0.9},
        {"model": "Qwen3-14B", "gpu": "B200", "tpot_s": 0.5},
        {"model": "Qwen3-8B", "gpu": "B200", "tpot_s": 0.3},
    )
    cases = known.iloc[3:]
    found = constant_baselines(cases, known, measured)["constant x Hopper row"]["predicted_tpot_s"]
    # Qwen3-32B by the median of 0.5 and 0.3, Qwen3-14B of 0.9 and 0.3, Qwen3-8B of 0.9 and 0.5.
    assert list(found) == pytest.approx([0.4, 0.6, 0.7])


def test_a_wider_place_where_there_is_no_row() -> None:
    known, measured = rows(
        {"model": "Qwen3-32B", "gpu": "H100", "tpot_s": 1.0},
        {"model": "Qwen3-14B", "gpu": "H100", "tpot_s": 1.0},
        {"model": "Qwen3-14B", "gpu": "B200", "tpot_s": 0.5},
    )
    cases, _ = rows({"model": "Qwen3-32B", "gpu": "B200", "weight_dtype": "fp8"})
    found = constant_baselines(cases, known, measured)["constant x Hopper row"]["predicted_tpot_s"]
    assert list(found) == pytest.approx([0.5])


def test_the_roofline_that_constants_stand_on() -> None:
    # 4 H100 in bfloat16, 1 request: weights and the cache of 1.5 x 1024 tokens in 64 layers of 8 KV heads of 128.
    cases, _ = rows({"model": "Qwen3-32B", "gpu": "H100", "concurrency": 1})
    weights = model_shape("Qwen3-32B").matmul_parameters
    step = (weights * 2 + 1536 * 64 * 2 * 8 * 128 * 2) / (4 * 3.35e12)
    prefill = 1024 * 2 * weights / (4 * 9.89e14)
    found = ceilings(cases).iloc[0]
    assert found["tpot_s"] == pytest.approx(step)
    assert found["output_tokens_per_s_per_gpu"] == pytest.approx(1024 / (1024 * step + prefill) / 4)


def test_no_roofline_where_the_weights_do_not_fit() -> None:
    cases, _ = rows({"model": "DeepSeek-V3", "gpu": "H100", "num_gpus": 1, "concurrency": None})
    assert ceilings(cases).isna().all(axis=None)


def stand_in(folder: Path, answer: str) -> Path:
    """An interpreter that has the package, and answers each line as `answer` says."""
    script = folder / "python"
    script.write_text(
        textwrap.dedent(f"""\
            #!{sys.executable}
            import json, sys
            for line in sys.stdin if "-I" in sys.argv else ():
                case = json.loads(line)
                {answer}
            """)
    )
    script.chmod(0o755)
    return script


def test_answers_of_the_package(tmp_path: Path) -> None:
    answer = (
        "print(json.dumps({'tpot_s': case['isl'] / 1e5, 'output_tokens_per_s_per_gpu': 50.0, 'gpu_power_w': 500.0}"
        " if case['system'] == 'h200_sxm' else {'reason': 'no tables'}))"
    )
    cases, _ = rows({"model": "Qwen3-32B", "gpu": "H200"}, {"model": "Qwen3-32B", "gpu": "VR"})
    found = aiconfigurator.aiconfigurator_baseline(cases, stand_in(tmp_path, answer))
    assert list(found["status"]) == ["ok", "unsupported"]
    assert found["predicted_tpot_s"].iloc[0] == pytest.approx(0.01024)
    assert found["predicted_joules_per_output_token"].iloc[0] == 10
    assert found["reason"].iloc[1] == "no tables"


def test_a_process_that_fails_is_said(tmp_path: Path) -> None:
    cases, _ = rows({"model": "Qwen3-32B", "gpu": "H200"})
    with pytest.raises(UserError, match="ended with 3 after 0 cases: out of memory"):
        aiconfigurator.aiconfigurator_baseline(
            cases, stand_in(tmp_path, "print('out of memory', file=sys.stderr); sys.exit(3)")
        )


def test_an_interpreter_without_the_package(tmp_path: Path) -> None:
    cases, _ = rows({"model": "Qwen3-32B", "gpu": "H200"})
    with pytest.raises(UserError, match="has no aiconfigurator-core; install"):
        aiconfigurator.aiconfigurator_baseline(cases, tmp_path / "python")


@pytest.mark.skipif(not aiconfigurator.is_installed(), reason="needs the extra silicon")
def test_the_package_itself() -> None:
    cases, _ = rows(
        {"model": "Qwen/Qwen3-32B", "gpu": "H200"},
        {"model": "deepseek-ai/DeepSeek-R1", "gpu": "B200", "num_gpus": 8, "weight_dtype": "fp4", "engine": "sglang"},
        {"model": "Qwen/Qwen3-32B", "gpu": "VR"},
        {"model": "Qwen/Qwen3-32B", "gpu": "H200", "concurrency": None},
    )
    found = aiconfigurator.aiconfigurator_baseline(cases)
    assert list(found["status"]) == ["ok", "ok", "unsupported", "unsupported"]
    # No faster than the data sheet allows.
    assert (found["predicted_tpot_s"][:2] > ceilings(cases)["tpot_s"][:2]).all()


def test_the_question_is_plain_json() -> None:
    cases, _ = rows({"model": "Qwen3-32B", "gpu": "H200", "concurrency": None})
    found = aiconfigurator.question(cases.to_dict("records")[0])
    assert json.loads(json.dumps(found, allow_nan=False))["concurrency"] is None
