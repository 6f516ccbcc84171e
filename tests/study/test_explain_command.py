"""`tokenwatt predict --explain` and `--what-if` from end to end, with the shipped fit."""

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from tokenwatt.cli import app
from tokenwatt.errors import UserError

CASES = """\
case_id,model,gpu,engine,num_gpus,tp,isl,osl,concurrency,weight_dtype
none,Qwen3-8B,H1000,vllm,1,1,1024,1024,64,bf16
dense,Qwen3-8B,H100,vllm,1,1,1024,1024,64,bf16
rubin,gpt-oss-120b,Rubin,trtllm,2,2,1024,8192,64,mxfp4
large,DeepSeek-V3,H100,sglang,1,1,1024,1024,64,fp8
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "cases.csv"
    path.write_text(CASES)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_the_first_answered_case_is_explained(table: Path) -> None:
    done = run(table, "--explain")
    assert done.exit_code == 0
    assert done.stdout.startswith("dense: Qwen3-8B (Qwen3-8B) on 1 x H100 SXM")
    for words in ("tokens/s per GPU", "attention.decode", "launches", "static/idle", "bound by bytes", "largest batch"):
        assert words in done.stdout
    assert "2 rows predicted, 2 refused" in done.stderr


def test_a_named_case_is_explained(table: Path) -> None:
    done = run(table, "--explain", "rubin")
    assert done.stdout.startswith("rubin: gpt-oss-120b")
    assert "method specs, overheads of trtllm" in done.stdout
    assert "curve of matmul in bf16: from B200 SXM" in done.stdout


def test_explained_as_json(table: Path, tmp_path: Path) -> None:
    done = run(table, "--explain", "dense", "--json", "-o", tmp_path / "out.csv")
    found = json.loads(done.stdout)
    answers = pd.read_csv(tmp_path / "out.csv").set_index("case_id")
    assert found["predicted"]["tpot_s"]["central"] == pytest.approx(answers.loc["dense", "predicted_tpot_s"])
    for kind in ("time_share", "energy_share"):
        for column in ("decode", "prompt", "token"):
            assert sum(part[kind][column] for part in found["parts"]) == pytest.approx(1.0)
    assert found["joules"]["token"] == pytest.approx(answers.loc["dense", "predicted_joules_per_output_token"])
    assert (found["engine_group"], found["batch"]) == ("vllm", 64.0)


def test_a_change_is_shown_and_written(table: Path, tmp_path: Path) -> None:
    run(table, "-o", tmp_path / "before.csv")
    done = run(table, "--what-if", "attention=2x", "--what-if", "host=1.5x", "-o", tmp_path / "after.csv")
    assert done.exit_code == 0
    assert "before and after attention=2x host=1.5x" in done.stdout
    before, after = (pd.read_csv(tmp_path / f"{name}.csv").set_index("case_id") for name in ("before", "after"))
    assert list(after.columns) == [*before.columns, "what_if"]
    assert set(after["what_if"]) == {"attention=2x host=1.5x"}
    assert list(after["status"]) == ["refused", "ok", "ok", "refused"]
    assert after["predicted_tpot_s"]["dense"] < before["predicted_tpot_s"]["dense"]
    shown = json.loads(run(table, "--what-if", "attention=2x", "--what-if", "host=1.5x", "--json").stdout)
    assert [line["case"] for line in shown["cases"]] == ["dense", "rubin"]
    tpot = shown["cases"][0]["tpot_s"]
    assert tpot["before"] == pytest.approx(before.loc["dense", "predicted_tpot_s"])
    assert tpot["after"] == pytest.approx(after.loc["dense", "predicted_tpot_s"])
    assert tpot["ratio"] == pytest.approx(tpot["after"] / tpot["before"])


def test_what_each_operation_is_worth(table: Path, tmp_path: Path) -> None:
    done = run(table, "--what-if", "all=1.01x", "-o", tmp_path / "worth.parquet")
    assert "each operation alone 1.01 times as fast" in done.stdout
    found = pd.read_parquet(tmp_path / "worth.parquet")
    assert set(found["case"]) == {"dense", "rubin"}
    assert (found["output_tokens_per_s_per_gpu"] >= 1).all()
    assert (found["joules_per_output_token"] <= 1).all()
    assert json.loads(run(table, "--what-if", "all=1.01x", "--json").stdout)[0]["case"] == "dense"


def test_as_if_nobody_had_measured_the_gpu(table: Path) -> None:
    done = run(table, "--explain", "dense", "--specs-only")
    assert "method specs" in done.stdout
    assert "curve of matmul in bf16: from " in done.stdout
    own, carried = (
        json.loads(run(table, "--what-if", "mlp=2x", "--json", *more).stdout)["cases"][0]["tpot_s"]["before"]
        for more in ((), ("--specs-only",))
    )
    assert own != carried


def test_nothing_to_explain(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("model,gpu\nQwen3-8B,H1000\n")
    assert run(tmp_path / "cases.csv", "--explain").exit_code == 1
    assert run(tmp_path / "cases.csv", "--what-if", "moe=2x", "-o", tmp_path / "out.csv").exit_code == 1
    assert list(pd.read_csv(tmp_path / "out.csv")["status"]) == ["refused"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--what-if", "attentio=2x"), "did you mean 'attention'"),
        (("--what-if", "moe=0x"), "must be a finite number > 0, got 0"),
        (("--what-if", "moe"), "needs NAME=FACTORx"),
        (("--what-if", "moe=2x", "--explain"), "ask for one of them"),
        (("--what-if", "moe=2x", "--score"), "shows predictions, not scores"),
        (("--explain", "--leave-out", "gpu"), "shows predictions, not scores"),
        (("--explain", "dens"), "no case is called 'dens'; the nearest of 4: dense"),
        (("--explain", "large"), "'large' is refused: does not fit"),
        (("dense",), "add --explain"),
    ],
)
def test_wrong_questions(table: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run(table, *arguments)
    assert isinstance(done.exception, UserError)
    assert words in str(done.exception)
    assert "\n" not in str(done.exception)
