"""Pages of the predictor: dots, figures, ratios of racks and what the README quotes of them."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tokenwatt.cli import app
from tokenwatt.errors import UserError
from tokenwatt.perf_model.cases import check_cases, measured_columns
from tokenwatt.perf_model.cell_effects import Cell, Place, Spreads
from tokenwatt.perf_model.fit import shipped_fit
from tokenwatt.perf_model.page.named_cases import mean_lengths, named_cases
from tokenwatt.perf_model.page.rack_ratio import difference_variance, rack_ratio
from tokenwatt.perf_model.page.readings import described
from tokenwatt.perf_model.page.readme import example_table, headline_table, renewed, with_block
from tokenwatt.perf_model.page.residual_plot import residual_plot
from tokenwatt.perf_model.page.score_page import score_files, scores_as_plain
from tokenwatt.perf_model.page.system_page import system_page
from tokenwatt.perf_model.page.trials import Trials
from tokenwatt.perf_model.predict import predict_cases
from tokenwatt.perf_model.predictions import answer
from tokenwatt.perf_model.score import labels_of, score
from tokenwatt.reference.published_ratios import load_ratios
from tokenwatt.workloads.library import library_folder

ROOT = Path(__file__).resolve().parents[2]
SPEED, TPOT = "output_tokens_per_s_per_gpu", "tpot_s"


def rows() -> pd.DataFrame:
    """Two models on two GPUs at five loads, and one row that cannot be answered."""
    lines: list[dict[str, Any]] = [
        {
            "case_id": f"case{len(GPUS) * place + row}",
            "source_set": "inferencex",
            "model": model,
            "gpu": gpu,
            "engine": "vllm",
            "num_gpus": 1,
            "isl": 1024,
            "osl": 1024,
            "concurrency": load,
            "weight_dtype": "fp8",
            # Digits that no figure of a page has by chance.
            SPEED: 98765.4321 + 7 * place,
            TPOT: 0.0314159265 + 0.0001 * place,
        }
        for place, (model, load) in enumerate((m, c) for m in ("Qwen3-8B", "Qwen3-14B") for c in (4, 8, 16, 32, 64))
        for row, gpu in enumerate(GPUS)
    ]
    return pd.DataFrame([*lines, {**lines[0], "case_id": "bad", "gpu": "B2000"}])


GPUS = ("B200", "B300")


@pytest.fixture(scope="module")
def trials() -> Trials:
    """Scores by the shipped fit; the same ones stand for every way of trying."""
    table = rows()
    cases, fit = check_cases(table), shipped_fit()
    answers = answer(cases, lambda valid: predict_cases(valid, fit))
    found = score(labels_of(cases), measured_columns(table), answers)
    return Trials(fit, cases, found, None, found, {"tdp ratio": found}, {"gpu": found, "model": found}, None, 0)


def test_every_row_has_a_dot(trials: Trials) -> None:
    # 20 rows with two quantities each; the refused row has no number to draw.
    plot = residual_plot(trials.with_tables.rows)
    assert plot.count("<circle ") == 40
    # A band for each of 2 models on 2 GPUs, for each quantity.
    assert plot.count('class="b"') == 8


def test_a_dot_stands_at_its_ratio() -> None:
    one = {"quantity": TPOT, "family": "a", "system": "B", "row": 0, "case_id": "0", "predicted": 1.0}
    lines = [{**one, "log_ratio": math.log(2), "low": 0.5, "high": 2.0}, {**one, "log_ratio": math.log(9)}]
    plot = residual_plot(pd.DataFrame(lines))
    # A panel of 190 below 28: 1 in the middle, 4 at the top edge, so 2 is at 28 + 190 * (1/2 - 1/4); 9 is on the edge.
    assert re.findall(r'<circle class="(.)" cx="[\d.]+" cy="([\d.]+)"', plot) == [("d", "75.5"), ("x", "28.0")]


def test_the_same_trials_give_the_same_bytes_and_no_measured_value(trials: Trials) -> None:
    files = score_files(trials)
    assert files == score_files(trials)
    assert set(files) == {"README.md", "residuals-inferencex.svg"}
    everything = "".join(files.values()) + json.dumps(scores_as_plain(trials))
    for place in range(10):
        assert str(98765.4321 + 7 * place)[:5] not in everything
        assert f"{98765.4321 + 7 * place:,.0f}" not in everything
        assert f"{0.0314159265 + 0.0001 * place:.6f}"[2:] not in everything
    assert "case" in files["README.md"]
    assert "no GPU named 'B2000'" in files["README.md"] or "B2000" in files["README.md"]


def test_the_page_has_the_figures_of_the_scores(trials: Trials) -> None:
    line = trials.with_tables.sets.set_index("quantity").loc[TPOT]
    page = score_files(trials)["README.md"]
    verdict = "reached" if line["error"] <= 0.14 else "not reached"
    assert f"| inferencex | TPOT | with tables | 20 | 4 | 1 | {100 * line['error']:.1f} % | 14 % | {verdict} |" in page


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--score",), "nothing to score"),
        ((), "--page tries every way by itself"),
        (("--score", "--specs-only"), "--page tries every way by itself"),
        (("--leave-out", "gpu"), "--page tries every way by itself"),
    ],
)
def test_what_the_command_cannot_make_a_page_of(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    (tmp_path / "cases.csv").write_text("model,gpu\nQwen3-8B,H100\n")
    arguments = ["predict", str(tmp_path / "cases.csv"), "--json", "--page", str(tmp_path / "page"), *options]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, UserError)
    assert words in str(done.exception)
    assert not (tmp_path / "page").exists()


def test_the_command_writes_every_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: Trials) -> None:
    monkeypatch.setattr("tokenwatt.perf_model.page.trials.run_trials", lambda *_: trials)
    rows().to_csv(tmp_path / "rows.csv", index=False)
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "rows.csv"), "--score", "--page", str(tmp_path / "page")])
    assert done.exit_code == 0, done.exception
    written = {path.name: path.read_bytes() for path in (tmp_path / "page").iterdir()}
    assert {"README.md", "rubin.md", "vr-nvl72.md", "h200-sxm.md", "scores.json"} < set(written)
    links = re.findall(r"\]\(([^)#]+)\)", written["README.md"].decode())
    assert set(links) <= set(written)


def test_a_row_is_read_by_its_labels() -> None:
    table = rows().head(2)
    table["model"], table["engine"], table["isl"] = "DeepSeek-R1", "trtllm", [4000, 1024]
    table["num_gpus"] = 8
    cases = check_cases(table)
    answers = answer(cases, lambda valid: predict_cases(valid, shipped_fit()))
    found = described(score(labels_of(cases), measured_columns(table), answers).rows, cases.valid)
    assert list(found[found["quantity"] == TPOT]["reading"]) == ["drafted tokens", "no reading"]


def test_mean_lengths() -> None:
    assert mean_lengths("summarise") == (2048, 128)
    # Lognormal means, 256 exp(0.7^2 / 2) = 327 and 256 exp(0.5^2 / 2) = 290, which clipping hardly moves.
    assert mean_lengths("chat") == (pytest.approx(327, abs=3), pytest.approx(290, abs=2))


def test_named_cases_are_in_formats_that_the_gpu_has() -> None:
    assert set(named_cases("H100 SXM").given["weight_dtype"]) == {"bf16", "fp8", "mxfp4"}
    assert set(named_cases("VR NVL72").given["weight_dtype"]) == {"bf16", "fp8", "mxfp4", "fp4"}


def test_a_page_of_a_system_says_how_it_was_found() -> None:
    own, carried = (system_page(name, shipped_fit()) for name in ("B200 SXM", "VR NVL72"))
    assert "Method: **silicon**" in own
    assert "Method: **specs**" in carried
    assert "| matmul | nvfp4 | measured |" in own
    assert "| hbm_bytes_per_s | 2.2e+13 | 1.87e+13 to 2.53e+13 |" in carried
    assert own == system_page("B200 SXM", shipped_fit())


@pytest.mark.parametrize("published", load_ratios(), ids=lambda row: row.scenario)
def test_what_two_racks_share_cancels(published: Any) -> None:
    fit = shipped_fit()
    found = rack_ratio(published, fit)
    assert found.same_load.low < found.same_load.central < found.same_load.high
    assert found.own_load.central >= found.same_load.central * (1 - 1e-9)
    if published.tpot_limit_s is not None:
        assert max(found.new.tpot_s, found.old.tpot_s) <= published.tpot_limit_s
    # The other rack has operator tables and exact Facts, but for how fast its host is.
    assert 0 < found.sds["curves and Facts of GB300 NVL72"] < 0.2


def test_variance_of_a_difference_of_cells() -> None:
    places = [Place("trtllm", "a", "VR NVL72"), Place("trtllm", "a", "GB300 NVL72")]
    spreads = Spreads(family=0.3, generation=0.2, cell=0.1, row=0.5)
    # The family cancels; each has a generation and a cell of its own: 2 (0.04 + 0.01).
    assert difference_variance((), spreads, places) == pytest.approx(0.10)
    # Many rows of the second leave the first: what it has in common with them, 0.09 of 0.14, is known.
    known = (Cell(places[1], 0.0, 10**9),)
    assert difference_variance(known, spreads, places) == pytest.approx(0.14 - 0.09**2 / 0.14)


def test_a_block_is_replaced_between_its_comments() -> None:
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert with_block(text, "x", "new\n") == "a\n<!-- x -->\n\nnew\n\n<!-- /x -->\nb\n"
    with pytest.raises(UserError, match="once each"):
        with_block(text, "y", "new")


def test_the_example_refuses_what_the_readme_says() -> None:
    cases = check_cases(pd.read_csv(library_folder() / "predict-example.csv", dtype="object"))
    answers = answer(cases, lambda valid: predict_cases(valid, shipped_fit()))
    assert list(answers["status"]) == ["ok"] * 9 + ["refused"]
    assert list(answers["method"]) == ["silicon"] * 8 + ["specs", ""]
    # 671 billion weights of one byte on four boards of 141 GB.
    assert example_table().count("| refused: ") == 1


def test_the_readme_quotes_the_example_and_the_scores_as_they_are() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    scores = json.loads((ROOT / "results" / "prediction" / "scores.json").read_text(encoding="utf-8"))
    assert headline_table(scores) in text
    now = renewed(text, scores)
    figures, others = (re.findall(r"\d[\d,.]*", each) for each in (text, now))
    assert len(figures) == len(others)
    assert re.sub(r"\d[\d,.]*", "", text) == re.sub(r"\d[\d,.]*", "", now)
    values = [
        np.array(
            [float(figure.strip(",.").replace(",", "")) for figure in each if re.fullmatch(r"[\d,]+(\.\d+)?", figure)]
        )
        for each in (figures, others)
    ]
    # Another processor may round the third digit otherwise.
    np.testing.assert_allclose(values[0], values[1], rtol=0.02)
