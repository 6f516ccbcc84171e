"""`tokenwatt data import`, as its users call it, and the report on what it wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenwatt import store
from tokenwatt.record import Measurement

FILES = Path(__file__).parents[1] / "imports" / "files"
VLLM, POISSON = FILES / "vllm_bench_detailed.json", FILES / "guidellm_poisson.json"


def test_import_writes_a_run_for_each_file_and_says_what_is_lost(tokenwatt, tmp_path):
    raw = tmp_path / "raw"
    outcome = tokenwatt(
        "data", "import", str(VLLM), str(POISSON), "-o", str(raw), "--gpu", "H200", "--gpus", "2", "--price", "3"
    )
    assert outcome.code == 0, outcome.err
    assert "vllm bench, 1 row, 20 requests" in outcome.out
    assert "lost: the file has no energy" in outcome.out
    rows = store.read(raw, Measurement).set_index("imported_from")
    assert set(rows.index) == {"vllm bench", "guidellm 0.8.1"}
    assert set(rows["usd_per_gpu_h"]) == {3.0}
    # 320 tokens in 0.4231 s on two GPUs.
    assert rows.loc["vllm bench", "output_tokens_per_s_per_gpu"] == pytest.approx(320 / 0.42308869599946775 / 2)


def test_the_report_labels_imported_rows_and_lists_their_losses(tokenwatt, tmp_path):
    files = [str(path) for path in (VLLM, POISSON, FILES / "inferencex_power.json", FILES / "mlenergy_results.json")]
    assert tokenwatt("data", "import", *files, "-o", str(tmp_path / "raw")).code == 0
    page = tmp_path / "report.html"
    outcome = tokenwatt("report", str(tmp_path / "raw"), "-o", str(page))
    assert outcome.code == 0, outcome.err
    text = page.read_text(encoding="utf-8")
    for words in ("imported from vllm bench", "imported from guidellm 0.8.1", "imported from InferenceX"):
        assert words in text
    assert "itl is unknown: gaps between chunks are not in the file" in text
    assert "not tested" in text
    assert "another tool measured it" in text
    assert "8 req/s" in text
    assert "nan" not in text.split("<script")[0]


def test_one_wrong_file_of_several_writes_nothing(tokenwatt, tmp_path):
    half = tmp_path / "half.json"
    half.write_bytes(VLLM.read_bytes()[:500])
    raw = tmp_path / "raw"
    outcome = tokenwatt("data", "import", str(VLLM), str(half), "-o", str(raw))
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert "half.json: not complete JSON" in outcome.err
    assert not raw.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.json",), "no such file: absent.json"),
        ((str(VLLM), "--as", "vllm-bnch"), "unknown format 'vllm-bnch' (did you mean 'vllm-bench'?)"),
        ((str(VLLM), "--as", "guidellm"), "$.metadata: is missing"),
        ((str(VLLM), "--gpus", "0"), "'--gpus'"),
    ],
)
def test_wrong_arguments(tokenwatt, tmp_path, arguments, message):
    outcome = tokenwatt("data", "import", *arguments, "-o", str(tmp_path / "raw"))
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "raw").exists()


def test_imported_rows_enter_neither_a_study_nor_the_fleet(tokenwatt, tmp_path):
    raw = tmp_path / "raw"
    assert tokenwatt("data", "import", str(FILES / "inferencex_power.json"), "-o", str(raw)).code == 0
    published = tmp_path / "published"
    study = tokenwatt("data", "publish", "s", "--from", str(raw), "--published", str(published), "--allow-unfinished")
    assert study.code == 2
    assert "was imported from InferenceX; a study holds rows that tokenwatt measured itself" in study.err
    row = store.read(raw, Measurement)["measurement_id"].iloc[0]
    fleet = tokenwatt("fleet", "--reference", row, "--results", str(raw), "-o", str(tmp_path / "fleet.parquet"))
    assert fleet.code == 2
    assert "was imported from InferenceX" in fleet.err
