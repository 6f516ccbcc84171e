"""`tokenwatt bench` with a gate: what a reader of its rows, its table, a report and a page sees."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from tests.accuracy.wrong_models import WRONG
from tests.end_to_end.conftest import Outcome
from tests.factories import measurement

from tokenwatt import cli, store
from tokenwatt.bench import compare_suite, run_suite
from tokenwatt.bench.observer import Unwatched
from tokenwatt.migrations import migrate
from tokenwatt.publish.engine_section import engine_section
from tokenwatt.record import ClosureTerm, Measurement, Result
from tokenwatt.report.html import page_text
from tokenwatt.report.run_tables import RunTables
from tokenwatt.spec import SuiteSpec, validate
from tokenwatt.terminal import print_measurements

WORKLOAD = """
name = "bytes"
description = "small"
vocabulary = 256
[input]
kind = "fixed"
tokens = 40
[output]
kind = "fixed"
tokens = 8
"""


@pytest.fixture
def bench(trained, tmp_path, monkeypatch) -> dict[str, Any]:
    """A small bench of the trained model with its check; the machine's ceilings, which take seconds, are left out."""
    monkeypatch.setattr("tokenwatt.bench.subject.measure_ceilings", lambda *_: None)
    (tmp_path / "bytes.toml").write_text(WORKLOAD)
    return {
        "engine": "native",
        "weights": str(trained),
        "dtype": "bfloat16",
        "device": "cpu",
        "workloads": [str(tmp_path / "bytes.toml")],
        "concurrency": [2],
        "window_s": 0.2,
        "min_window_s": 0.1,
        "interval_width": 0,
        "idle_s": 0.0,
        "accuracy": {"sequences": 6},
    }


@pytest.fixture
def wrong(bench, trained, tmp_path) -> dict[str, Any]:
    """The same, with a config that drops a layer, against the right reference."""
    folder = next(each for each in WRONG if each.name == "a layer dropped").make(trained, tmp_path / "wrong")
    reference = {"reference_weights": str(trained), "reference_model": str(trained)}
    return {**bench, "weights": str(folder), "accuracy": {**bench["accuracy"], **reference}}


def suite_of(*benches: dict[str, Any]) -> SuiteSpec:
    return validate({"name": "s", "bench": list(benches)}, SuiteSpec, "test")


def test_an_engine_that_agrees_is_measured_and_its_rows_say_so(bench, tmp_path, capsys):
    run = run_suite(suite_of(bench), tmp_path / "raw", Unwatched())
    assert [row.status for row in run.measurements] == ["ok"]
    for row in run.measurements:
        assert row.accuracy_status == "agrees"
        # Requests reach 48 tokens, so that pieces have 47: 46 are compared in each of six.
        assert row.accuracy_tokens == 6 * 46
        assert row.accuracy_mean_difference is not None
        assert 0.0025 < row.accuracy_mean_difference < 0.025
        assert row.accuracy_perplexity == pytest.approx(row.accuracy_reference_perplexity, rel=0.01)
        assert row.accuracy_reference is not None
        assert row.accuracy_reference.startswith("hf_transformers.generate")
    print_measurements(run.measurements, "s", run.results)
    assert capsys.readouterr().out.count("answers agree (0.0") == 1
    page = page_text(RunTables.read([run.folder]), None)
    assert page.count("answers agree (0.0") == 1
    (stored,) = set(store.read(run.folder, Measurement)["accuracy_status"])
    assert stored == "agrees"


def test_a_red_gate_has_no_speed(wrong, tmp_path, capsys):
    run = run_suite(suite_of(wrong), tmp_path / "raw", Unwatched())
    assert run.has_failed
    assert len(run.measurements) == 1
    for row in run.measurements:
        assert (row.status, row.reasons, row.accuracy_status) == ("failed", ("accuracy",), "disagrees")
        assert (row.output_tokens, row.window_s, row.ttft_median_s) == (None, None, None)
        assert row.detail is not None
        assert "does not compute the model as hf_transformers.generate" in row.detail
        assert "> 0.03" in row.detail
        assert row.accuracy_mean_difference is not None
        assert row.accuracy_mean_difference > 0.1
    assert run.results == []
    print_measurements(run.measurements, "s", run.results)
    assert "failed: native does not compute the model" in capsys.readouterr().out
    page = page_text(RunTables.read([run.folder]), None)
    assert "answers disagree (" in page
    assert "its speed is that of another model" in page


def test_a_red_gate_ends_with_code_1_and_nothing_is_warmed_up(wrong, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("tokenwatt.engines.native.engine.NativeEngine.warm_up", lambda *_: pytest.fail("warmed up"))
    path = tmp_path / "suite.toml"
    path.write_text(as_toml(wrong))
    outcome = tokenwatt(monkeypatch, capfd, "bench", str(path), "--results", str(tmp_path / "raw"), "--json")
    assert outcome.code == 1, outcome.err
    rows = json.loads(outcome.out)
    assert [row["accuracy_status"] for row in rows] == ["disagrees"]


@pytest.mark.slow
def test_in_a_comparison_the_side_that_disagrees_fails_alone(bench, wrong, tmp_path):
    run = compare_suite(suite_of(bench, wrong), tmp_path / "raw", Unwatched())
    assert [(row.variant, row.reasons) for row in run.measurements] == [("B", ("accuracy",))]
    assert "keeps both engines loaded" not in str(run.measurements[0].detail)


def test_random_weights_are_measured_and_say_why_they_were_not_checked(bench, trained, tmp_path):
    random = {**bench, "model": str(trained), "weights": "random"}
    (row,) = run_suite(suite_of(random), tmp_path / "raw", Unwatched()).measurements
    assert (row.status, row.accuracy_status, row.accuracy_mean_difference) == ("ok", "not_applicable", None)
    assert row.accuracy_detail == "weights are random: each engine makes others of the same seed"


def test_a_reference_that_cannot_load_leaves_failed_rows_and_loads_no_engine(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("tokenwatt.engines.hf_transformers.models.free_bytes", lambda _: 10)
    monkeypatch.setattr("tokenwatt.engines.native.engine.NativeEngine.load", lambda *_: pytest.fail("loaded"))
    run = run_suite(suite_of(bench), tmp_path / "raw", Unwatched())
    (row,) = run.measurements
    assert (row.status, row.reasons, row.accuracy_status) == ("failed", ("engine_error",), "not_checked")
    assert "reference engine hf_transformers.generate: " in str(row.detail)
    assert "needs 0.00 GB for its weights" in str(row.detail)


@pytest.mark.parametrize(
    ("accuracy", "message"),
    [
        ("sequence = 4", "unknown key 'bench.0.accuracy.sequence'; allowed here: length, lm_eval, max_mean_difference"),
        ("length = 1", "bench.0.accuracy.length: input should be greater than or equal to 2, got 1"),
        ("max_mean_difference = 0.0", "input should be greater than 0, got 0.0"),
        ("max_perplexity_ratio = 0.9", "input should be greater than or equal to 1, got 0.9"),
        ('reference = "vlmm"', "unknown engine 'vlmm'"),
        ('reference = "fake"', "reference 'fake' tells none"),
        ('tokens = "random"\ntext = "x"', "tokens = \"random\" asks about no text; leave out text, got 'x'"),
        ('text = "absent.txt"', "text = 'absent.txt' cannot be read as UTF-8"),
        ('tokenizer = "/absent"', "finds no tokenizer in '/absent'"),
        ('reference_weights = "/absent"', "no such weights folder: /absent"),
        ('lm_eval = [{ task = "arc_easy", min_score = 2.0 }]', "bench.0.accuracy.lm_eval.0.min_score: input should be"),
    ],
)
def test_a_wrong_table_is_one_line_and_nothing_is_measured(bench, tmp_path, monkeypatch, capfd, accuracy, message):
    path = tmp_path / "suite.toml"
    path.write_text(as_toml({**bench, "accuracy": {}}) + accuracy + "\n")
    outcome = tokenwatt(monkeypatch, capfd, "bench", str(path), "--results", str(tmp_path / "raw"))
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "raw").exists()


def test_rows_of_the_first_version_were_not_checked():
    now = store.to_table([measurement(requests_failed=0)], Measurement)
    unknown = [name for name in now.column_names if name.startswith("accuracy_")]
    then = now.drop_columns([*unknown, "load", "ramp_s"]).rename_columns({"requests_failed": "requests_refused"})
    assert len(unknown) == 9
    (row,) = migrate(then, Measurement, 1).select(unknown).to_pylist()
    assert row.pop("accuracy_status") == "not_checked"
    assert set(row.values()) == {None}


def test_a_page_of_a_study_says_it_beside_the_formats():
    rows = [
        measurement(point_id="r/p0", dtype="bfloat16", accuracy_status="agrees", accuracy_mean_difference=0.0083),
        measurement(point_id="r/p1", dtype="bfloat16", measurement_id="r/1"),
    ]
    measurements = store.to_table(rows, Measurement).to_pandas()
    results, closure = (store.to_table([], kind).to_pandas() for kind in (Result, ClosureTerm))
    page = "\n".join(engine_section(measurements, results, closure))
    assert page.count("bfloat16, –, –; answers agree (0.0083 nats)") == 1
    assert page.count("bfloat16, –, – |") == 1


def test_a_row_that_disagrees_carries_no_numbers():
    with pytest.raises(ValidationError, match="a row whose accuracy_status is disagrees cannot be ok"):
        measurement(accuracy_status="disagrees")


def as_toml(bench: dict[str, Any]) -> str:
    """A suite of one bench, its table `accuracy` last and open."""
    plain = "".join(f"{key} = {json.dumps(value)}\n" for key, value in bench.items() if key != "accuracy")
    accuracy = "".join(f"{key} = {json.dumps(value)}\n" for key, value in bench["accuracy"].items())
    return f'name = "s"\n[[bench]]\n{plain}[bench.accuracy]\n{accuracy}'


def tokenwatt(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str) -> Outcome:
    monkeypatch.setattr("sys.argv", ["tokenwatt", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert isinstance(exit_.value.code, int)
    return Outcome(exit_.value.code, *capfd.readouterr())
