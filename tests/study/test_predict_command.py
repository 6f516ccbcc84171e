"""`tokenwatt predict`: what it writes, prints and exits with."""

import csv
import importlib
import json
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from tokenwatt.cli import app
from tokenwatt.errors import UserError
from tokenwatt.perf_model.cases import MEASURED, NUMERIC, TEXTS, read_table
from tokenwatt.perf_model.predictions import PREDICTED, write_predictions

MODELS = ("Qwen/Qwen3-8B", "Qwen/Qwen3-14B", "Qwen/Qwen3-32B")


def table(gpus: tuple[str, ...] = ("H100", "B200")) -> pd.DataFrame:
    """Three models at five loads on each GPU, with measured values that are a third of nothing in particular."""
    random = np.random.default_rng(7)
    lines: list[dict[str, Any]] = []
    for gpu in gpus:
        for model in MODELS:
            for concurrency in (4, 8, 16, 32, 64):
                tpot = random.uniform(0.04, 0.08)
                lines.append(
                    {
                        "case_id": f"{len(lines):03}",
                        "source_set": "ours",
                        "model": model,
                        "gpu": gpu,
                        "engine": "vllm",
                        "num_gpus": 2,
                        "isl": 1024,
                        "osl": 1024,
                        "concurrency": concurrency,
                        "weight_dtype": "bf16",
                        "output_tokens_per_s_per_gpu": concurrency / tpot / 2,
                        "tpot_s": tpot,
                        "note": "kept, with a comma",
                    }
                )
    return pd.DataFrame(lines)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def written(path: Path) -> Path:
    """A table of cases as CSV."""
    table().to_csv(path, index=False)
    return path


def test_csv_and_parquet_hold_the_same(tmp_path: Path) -> None:
    cases = written(tmp_path / "cases.csv")
    assert run(cases, "-o", tmp_path / "out.csv").exit_code == 0
    assert run(cases, "-o", tmp_path / "out.parquet").exit_code == 0
    table().to_parquet(tmp_path / "cases.parquet")
    assert run(tmp_path / "cases.parquet", "-o", tmp_path / "again.csv").exit_code == 0
    text = pd.read_csv(tmp_path / "out.csv", dtype={"case_id": str})
    typed = pd.read_parquet(tmp_path / "out.parquet")
    again = pd.read_csv(tmp_path / "again.csv", dtype={"case_id": str})
    assert list(text["case_id"]) == list(typed["case_id"]) == list(table()["case_id"])
    assert list(typed["num_gpus"]) == list(table()["num_gpus"])
    kept = [name for name in table().columns if name not in MEASURED]
    assert list(text.columns) == list(typed.columns) == [*kept, *PREDICTED, "method", "status", "reason", "assumptions"]
    for name in PREDICTED:
        np.testing.assert_array_equal(text[name], typed[name])
        np.testing.assert_array_equal(text[name], again[name])
    assert text["predicted_tpot_s"].notna().all()


def test_only_columns_of_numbers_become_numbers(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("case_id,model,gpu,engine_version,isl,tp\n01,Qwen3-8B,H100,0.10,512,x\n")
    assert run(tmp_path / "cases.csv", "-o", tmp_path / "out.parquet").exit_code == 1
    found = pd.read_parquet(tmp_path / "out.parquet").iloc[0]
    assert (found["case_id"], found["engine_version"], found["isl"], found["tp"]) == ("01", "0.10", 512, "x")


def test_measured_columns_are_never_read(tmp_path: Path) -> None:
    cases = written(tmp_path / "cases.csv")
    shuffled = table()
    for name in ("output_tokens_per_s_per_gpu", "tpot_s"):
        shuffled[name] = shuffled[name].sample(frac=1, random_state=1).to_numpy()
    shuffled.assign(gpu_power_w="a word", mean_batch=-1).to_csv(tmp_path / "shuffled.csv", index=False)
    for name in ("cases", "shuffled"):
        assert run(tmp_path / f"{name}.csv", "--fit", cases, "-o", tmp_path / f"{name}.out.csv").exit_code == 0
    assert (tmp_path / "cases.out.csv").read_bytes() == (tmp_path / "shuffled.out.csv").read_bytes()


def test_the_fit_is_made_from_the_rows_that_are_named(tmp_path: Path) -> None:
    cases = written(tmp_path / "cases.csv")
    fast = table()
    fast["tpot_s"] /= 2
    fast.to_csv(tmp_path / "fast.csv", index=False)
    table().assign(concurrency=12).to_csv(tmp_path / "unseen.csv", index=False)

    def predicted(asked: Path, fit: str) -> pd.Series:
        assert run(asked, "--fit", tmp_path / fit, "-o", tmp_path / "out.csv").exit_code == 0
        return pd.read_csv(tmp_path / "out.csv")["predicted_tpot_s"]

    # A row that was measured is told as it was; another one follows as far as the priors let it.
    np.testing.assert_allclose(predicted(cases, "fast.csv"), predicted(cases, "cases.csv") / 2)
    ratio = predicted(tmp_path / "unseen.csv", "fast.csv") / predicted(tmp_path / "unseen.csv", "cases.csv")
    assert ratio.between(0.4, 0.8).all()


def test_bad_rows_are_refused_and_the_others_answered(tmp_path: Path) -> None:
    lines = table().astype("object")
    lines.loc[0, "isl"] = -1
    lines.loc[1, "gpu"] = "H1000"
    # 671 billion parameters of one byte on one GPU of 80 GB.
    for name, value in {"model": "DeepSeek-V3", "num_gpus": 1, "weight_dtype": "fp8", "concurrency": np.nan}.items():
        lines.loc[2, name] = value
    lines.to_csv(tmp_path / "cases.csv", index=False)
    done = run(tmp_path / "cases.csv", "-o", tmp_path / "out.csv")
    found = pd.read_csv(tmp_path / "out.csv")
    assert done.exit_code == 0
    assert list(found["status"][:4]) == ["refused", "refused", "refused", "ok"]
    assert found["reason"][0] == "isl must be > 0, got -1"
    assert found["reason"][2] == "does not fit: 673 GB of weights on each GPU, H100 has 86 GB"
    assert found.loc[:2, list(PREDICTED)].isna().all(axis=None)
    assert "27 rows predicted, 3 refused; 1 x isl must be > 0, got -1" in done.stderr


def test_exit_codes(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("model,gpu\nQwen3-8B,H1000\n")
    done = run(tmp_path / "bad.csv", "-o", tmp_path / "out.csv")
    assert done.exit_code == 1
    assert len(pd.read_csv(tmp_path / "out.csv")) == 1
    (tmp_path / "none.csv").write_text("model\nQwen3-8B\n")
    for arguments, words in (
        ((tmp_path / "none.csv", "-o", tmp_path / "out.csv"), "lacks the column 'gpu'"),
        ((tmp_path / "bad.csv", "-o", tmp_path / "out.txt"), "ends in .csv or .parquet"),
        ((tmp_path / "bad.csv",), "needs a place for its answers"),
        ((tmp_path / "bad.csv", "--score"), "nothing to score"),
    ):
        found = run(*arguments)
        assert isinstance(found.exception, UserError), arguments
        assert words in str(found.exception)


def test_an_earlier_answer_is_replaced(tmp_path: Path) -> None:
    assert run(written(tmp_path / "cases.csv"), "-o", tmp_path / "out.csv").exit_code == 0
    assert run(tmp_path / "out.csv", "-o", tmp_path / "again.csv").exit_code == 0
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()


def test_no_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "out.csv"
    place.write_text("as it was")

    def breaks(table: pd.DataFrame, file: Any, **_: Any) -> None:
        file.write(b"half a line")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", breaks)
    with pytest.raises(UserError, match="No space left"):
        write_predictions(pd.DataFrame({"a": [1]}), place)
    assert place.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [place]


def test_a_written_file_is_readable_by_all(tmp_path: Path) -> None:
    path = write_predictions(pd.DataFrame({"a": [1]}), tmp_path / "deep" / "out.csv")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_scores_beside_baselines(tmp_path: Path) -> None:
    cases = written(tmp_path / "cases.csv")
    done = run("--score", cases, "--json")
    assert done.exit_code == 0
    scores = json.loads(done.stdout)
    assert list(scores)[:7] == [
        "prediction",
        "bandwidth ratio",
        "peak ratio",
        "tdp ratio",
        "TDP as power",
        "constant x Hopper row",
        "constant x roofline",
    ]
    own = {line["quantity"]: line for line in scores["prediction"]["sets"]}
    assert (own["tpot_s"]["cells"], own["tpot_s"]["rows"]) == (6, 30)
    # The H100 rows have no other Hopper row to stand in for them.
    ratio = {line["quantity"]: line for line in scores["tdp ratio"]["sets"]}
    assert (ratio["tpot_s"]["rows"], ratio["tpot_s"]["unsupported"]) == (15, 15)
    shown = run("--score", cases, "--fit", cases)
    assert "30 of the scored rows were fitted on" in shown.stderr
    assert "tokens/s per GPU" in shown.stdout
    assert "constant x roofline" in shown.stdout


def test_excluded_rows_are_scored_apart_and_not_fitted_on(tmp_path: Path) -> None:
    rows = table().assign(exclude=pd.Series([None] * 29 + ["repeat of another row"], dtype="object"))
    rows.to_csv(tmp_path / "rows.csv", index=False)
    done = run(tmp_path / "rows.csv", "--score", "--fit", tmp_path / "rows.csv")
    assert done.exit_code == 0
    assert "1 rows cannot be fitted on; 1 x excluded: repeat of another row" in done.stderr
    assert "29 of the scored rows were fitted on" in done.stderr
    before, _, after = done.stdout.partition("with the excluded rows")
    # A cell of four rows is not counted.
    assert ("  25 " in before, "  30 " in after) == (True, True)
    rows.assign(exclude="all of them").to_csv(tmp_path / "none.csv", index=False)
    found = run(tmp_path / "none.csv", "--score")
    assert "no row that is not excluded has a measured value" in str(found.exception)
    found = run(tmp_path / "rows.csv", "--json", "--fit", tmp_path / "none.csv")
    assert "--fit: every row is refused or excluded" in str(found.exception)
    # A flag that is false excludes nothing.
    rows.assign(exclude="false").to_parquet(tmp_path / "flags.parquet")
    assert "with the excluded rows" not in run(tmp_path / "flags.parquet", "--score").stdout


def test_drafted_tokens_without_an_accepted_length_are_answered(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text(
        "model,gpu,num_gpus,tp,concurrency,draft_tokens\nQwen3-8B,H200,1,1,8,3\nQwen3-8B,H200,1,1,8,\n"
    )
    assert run(tmp_path / "cases.csv", "-o", tmp_path / "out.csv").exit_code == 0
    found = pd.read_csv(tmp_path / "out.csv")
    assert "accepted_length is not said: 1 is assumed" in found["assumptions"][0]
    assert "accepted_length" not in found["assumptions"][1]


@pytest.mark.parametrize(("by", "groups"), [("gpu", 2), ("model", 3)])
def test_each_group_is_predicted_by_a_fit_without_it(
    tmp_path: Path, by: str, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = importlib.import_module("tokenwatt.perf_model.fit")
    seen: list[frozenset[str]] = []
    column = {"gpu": "system", "model": "family"}[by]
    fit_rows = fit.fit_rows

    def recorded(rows: pd.DataFrame) -> object:
        seen.append(frozenset(rows[column]))
        return fit_rows(rows)

    monkeypatch.setattr(fit, "fit_rows", recorded)
    done = run(written(tmp_path / "cases.csv"), "--leave-out", by, "--json", "-o", tmp_path / "out.csv")
    assert done.exit_code == 0
    everything = frozenset().union(*seen)
    assert len(everything) == groups
    assert sorted(map(len, seen)) == [groups - 1] * groups
    assert len({everything - names for names in seen}) == groups
    assert (pd.read_csv(tmp_path / "out.csv")["status"] == "ok").all()
    assert json.loads(done.stdout)["prediction"]["sets"]


def test_the_columns_of_cases_are_documented() -> None:
    text = (Path(__file__).parents[2] / "workloads" / "README.md").read_text(encoding="utf-8")
    section = text.partition("## `predict-example.csv`")[2]
    named = {name for line in section.splitlines() for name in re.findall(r"`(\w+)`", line.partition(" | ")[0])}
    texts = {"case_id", "model", "gpu", "weight_dtype", "scenario", "disaggregated"}
    assert named >= {*NUMERIC, *TEXTS, *texts, "exclude", "method", "status", "reason", "assumptions"}
    assert set(MEASURED) <= set(re.findall(r"`(\w+)`", section))


def test_rows_that_are_not_fitted_on_are_counted(tmp_path: Path) -> None:
    measured = table(("H100",))
    # 671 billion parameters on two GPUs of 80 GB: somebody mislabelled the row.
    measured.loc[0, "model"] = "DeepSeek-V3"
    measured.to_csv(tmp_path / "rows.csv", index=False)
    done = run(written(tmp_path / "cases.csv"), "--fit", tmp_path / "rows.csv", "--json")
    assert "1 of 15 known rows is not fitted on" in done.stderr


def test_nothing_left_to_fit_on(tmp_path: Path) -> None:
    table(("H100",)).to_csv(tmp_path / "cases.csv", index=False)
    done = run(tmp_path / "cases.csv", "--leave-out", "gpu")
    assert isinstance(done.exception, UserError)
    assert "without H100 SXM no rows are left" in str(done.exception)


def test_predictions_as_json(tmp_path: Path) -> None:
    done = run(written(tmp_path / "cases.csv"), "--json")
    found = json.loads(done.stdout)
    assert len(found) == 30
    assert found[0]["predicted_tpot_s_low"] < found[0]["predicted_tpot_s"] < found[0]["predicted_tpot_s_high"]
    assert found[0]["predicted_gpu_power_w"] > 0


def test_text_with_commas_comes_through(tmp_path: Path) -> None:
    assert run(written(tmp_path / "cases.csv"), "-o", tmp_path / "out.csv").exit_code == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        assert {line["note"] for line in csv.DictReader(file)} == {"kept, with a comma"}
    assert set(read_table(tmp_path / "out.csv")["note"]) == {"kept, with a comma"}
