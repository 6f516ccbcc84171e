"""Cases: what is read, what is refused with which words, and that nothing measured comes through."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tokenwatt.errors import UserError
from tokenwatt.perf_model.cases import MEASURED, check_cases, measured_columns, read_table
from tokenwatt.perf_model.gpu_names import system_of_gpu

GOOD = {
    "model": "Qwen/Qwen3-32B",
    "gpu": "H100",
    "num_gpus": "4",
    "tp": "4",
    "ep": "1",
    "isl": "1024",
    "osl": "512",
    "concurrency": "16",
    "scenario": "closed_loop",
    "weight_dtype": "bf16",
}


def one(**changes: Any) -> pd.DataFrame:
    return pd.DataFrame([GOOD | changes], dtype="object")


def test_a_row_comes_out_clean() -> None:
    found = check_cases(one(case_id="007", owner="us")).valid.iloc[0].to_dict()
    expected = {
        "case_id": "007",
        "owner": "us",
        "model": "Qwen/Qwen3-32B",
        "family": "Qwen3-32B",
        "gpu": "H100",
        "system": "H100 SXM",
        "num_gpus": 4,
        "attention_tp": 4,
        "attention_dp": 1,
        "moe_tp": 4,
        "moe_ep": 1,
        "pp": 1,
        "isl": 1024.0,
        "osl": 512.0,
        "concurrency": 16.0,
        "scenario": "closed_loop",
        "weight_dtype": "bfloat16",
        "disaggregated": False,
        "task": "",
        "assumed": "",
    }
    assert {name: found[name] for name in expected} == expected


def test_model_and_gpu_are_enough() -> None:
    cases = check_cases(pd.DataFrame({"model": ["openai/gpt-oss-20b"], "gpu": ["NVIDIA H200"]}))
    found = cases.valid.iloc[0]
    assert not cases.refused
    assert (found["scenario"], found["num_gpus"], found["weight_dtype"]) == ("offline", 1, "mxfp4")
    assert (found["isl"], found["osl"]) == (1024.0, 1024.0)
    assert pd.isna(found["concurrency"])
    assert found["assumed"] == "isl osl weight_dtype num_gpus tp scenario"


@pytest.mark.parametrize(("task", "isl"), [("lm-arena-chat", 200.0), ("gpqa", 300.0), ("TP4", 1024.0)])
def test_an_unknown_prompt_is_that_of_its_task(task: str, isl: float) -> None:
    found = check_cases(one(isl=None, task=task)).valid.iloc[0]
    assert (found["isl"], found["assumed"]) == (isl, "isl")


# What is wrong with the row, and what its reason has to say.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"gpu": "H10"}, "unknown GPU 'H10' (did you mean 'H100'?)"),
    ({"gpu": "NVIDIA H100 PCIe"}, "unknown GPU 'NVIDIA H100 PCIe'"),
    ({"gpu": "H100 (PCIe)"}, "unknown GPU 'H100 (PCIe)'"),
    ({"gpu": "RTX 4090 (H100)"}, "unknown GPU"),
    ({"gpu": "RTX"}, "unknown GPU 'RTX'"),
    ({"gpu": ""}, "gpu is empty"),
    ({"model": None}, "model is empty"),
    ({"model": "Qwen/Qwen3-33B"}, "did you mean 'Qwen3-32B'?"),
    ({"model": "deepseek-ai/DeepSeek-V4-Pro"}, "compressed keys"),
    ({"isl": "-5"}, "isl must be > 0, got -5"),
    ({"osl": "0.5"}, "osl must be at least 1, got 0.5"),
    ({"num_requests": "1e308"}, "num_requests must be at most 1e+09, got 1e308"),
    ({"osl": "many"}, "osl must be a number, got 'many'"),
    ({"concurrency": "inf"}, "concurrency must be > 0, got inf"),
    ({"tp": "0"}, "tp must be > 0, got 0"),
    ({"tp": "2.5"}, "tp must be a whole number, got 2.5"),
    ({"tp": "3", "num_gpus": "3"}, "tp 3 does not divide the 64 heads of Qwen3-32B"),
    ({"tp": "8", "num_gpus": "4"}, "tp 8 does not divide 4 GPUs"),
    ({"dp": "2"}, "tp 4 x dp 2 x pp 1 are 8 GPUs, but num_gpus is 4"),
    ({"task": "TP8"}, "task TP8 means num_gpus 8, but num_gpus is 4"),
    ({"model": "Qwen/Qwen3-30B-A3B", "ep": "3", "num_gpus": "6", "tp": "6"}, "tp 6 does not divide the 32 heads"),
    ({"pp": "3"}, "pp 3 does not divide 4 GPUs"),
    ({"scenario": "serve"}, "unknown scenario 'serve'"),
    ({"concurrency": None}, "scenario closed_loop needs concurrency"),
    ({"weight_dtype": "fp3"}, "unknown weight_dtype 'fp3'"),
    ({"weight_dtype": "nvfp4"}, "H100 SXM has no tensor cores for weight_dtype nvfp4"),
    ({"disaggregated": "perhaps"}, "disaggregated must be true or false, got 'perhaps'"),
    ({"disaggregated": "true"}, "disaggregated needs prefill_gpus_each and decode_gpus_each"),
    ({"decode_workers": "2"}, "decode_workers is given, but disaggregated is not true"),
    (
        {"disaggregated": "true", "prefill_gpus_each": "4", "decode_gpus_each": "4", "num_gpus": "16"},
        "prefill has 4 GPUs and decode 4, but num_gpus is 16",
    ),
]


def test_each_bad_row_is_refused_with_its_reason_and_the_others_are_answered() -> None:
    table = pd.concat([one(), *(one(**changes) for changes, _ in REFUSED), one()], ignore_index=True)
    cases = check_cases(table)
    assert list(cases.valid.index) == [0, len(table) - 1]
    for row, (changes, words) in enumerate(REFUSED, start=1):
        assert words in cases.refused[row], changes
        assert "\n" not in cases.refused[row]


def test_two_pools() -> None:
    pools = {"prefill_gpus_each": "2", "decode_workers": "2", "decode_gpus_each": "4", "num_gpus": None, "tp": None}
    found = check_cases(one(disaggregated="True", **pools)).valid.iloc[0]
    assert (found["num_gpus"], found["attention_tp"], found["decode_workers"]) == (10, 4, 2)


@pytest.mark.parametrize(
    ("name", "system"),
    [
        ("H100", "H100 SXM"),
        ("h200_sxm", "H200 SXM"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("B200", "B200 SXM"),
        ("NVIDIA GB300 NVL72", "GB300 NVL72"),
        ("GB200", "GB200 NVL72"),
        ("VR", "VR NVL72"),
        ("Rubin (VR NVL72)", "VR NVL72"),
        ("Vera Rubin", "VR NVL72"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000"),
        ("H200 (141GB)", "H200 SXM"),
    ],
)
def test_names_of_gpus(name: str, system: str) -> None:
    assert system_of_gpu(name) == system


def test_measured_columns_are_dropped_and_read_apart() -> None:
    table = one(**(dict.fromkeys(MEASURED, "2.5") | {"tpot_s": "fast", "ttft_s": "-1"}))
    cases = check_cases(table)
    assert not set(MEASURED) & {*cases.given.columns, *cases.valid.columns}
    found = measured_columns(table).iloc[0]
    assert found["gpu_power_w"] == 2.5
    assert found[["tpot_s", "ttft_s"]].isna().all()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("cases.csv", "model,isl\na,1\n", "lacks the column 'gpu'"),
        ("cases.csv", "model,gpu\n", "holds no rows"),
        ("cases.csv", "", "lacks the column 'model'"),
        ("cases.csv", "model,gpu\na,b,c\n", "cases.csv:2: needs 2 cells, got 3"),
        ("cases.csv", "model,gpu,gpu\na,b,c\n", "the column 'gpu' stands there twice"),
        ("cases.csv", 'model,gpu\n"a,b\n', "cannot be read as CSV"),
        ("cases.parquet", "PAR1 and no more", "not a complete parquet file"),
        ("cases.json", "[]", "ends in .csv or .parquet"),
    ],
)
def test_a_table_that_is_none_is_the_user_s_error(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        read_table(tmp_path / name)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_table(tmp_path / "cases.csv")


def test_csv_cells_stay_text(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("﻿case_id,model,gpu,note\n007,a,b,\n1e5,a,b,NA\n")
    table = read_table(tmp_path / "cases.csv")
    assert list(table["case_id"]) == ["007", "1e5"]
    assert list(table["note"]) == [None, "NA"]
