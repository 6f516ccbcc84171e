"""Everything that people get wrong: one clear line on stderr, exit code 2, nothing measured and nothing written."""

from __future__ import annotations

import pytest
from tests.factories import measurement

from tokenwatt import store
from tokenwatt.record import Measurement

SUITE = """
name = "s"
[[bench]]
engine = "fake"
workloads = ["chat-smoke"]
concurrency = [1]
"""
NATIVE = SUITE.replace('"fake"', '"native"') + 'device = "cpu"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SUITE + "windows = 3\n", "unknown key 'bench.0.windows'"),
        (SUITE.replace("[1]", '["four"]'), "should be a valid integer, got 'four'"),
        (SUITE.replace("[1]", "[-4]"), "should be greater than 0, got -4"),
        (SUITE.replace('"fake"', '"fakr"'), "unknown engine 'fakr' (did you mean 'fake'?)"),
        (SUITE.replace("chat-smoke", "chat-smok"), "unknown workload 'chat-smok' (did you mean 'chat-smoke'?)"),
        (SUITE + 'dtype = "fp8"\n', "should be 'float32', 'bfloat16' or 'float16', got 'fp8'"),
        (NATIVE, "engine 'native' needs a model"),
        (NATIVE + 'model = "Qwen3-9B"\n', "unknown model 'Qwen3-9B' (did you mean 'Qwen3-8B'?)"),
        (NATIVE + 'model = "/no/such/folder"\n', "no such model folder: /no/such/folder"),
        (NATIVE + 'model = "Qwen3-8B"\nweights = "absent"\n', "no such weights folder: absent"),
        (SUITE + "window_s = inf\n", "bench.0.window_s: input should be less than or equal to 86400, got inf"),
        (SUITE + "window_s = nan\n", "got nan"),
        (SUITE + f"seed = {10**18}0\n", "bench.0.seed: input should be less than"),
        ("name = [", "not valid TOML"),
    ],
)
def test_a_wrong_suite(tmp_path, tokenwatt, text, message):
    path = tmp_path / "suite.toml"
    path.write_text(text)
    outcome = tokenwatt("bench", str(path), "--results", str(tmp_path / "raw"))
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "gpv"), "unknown suite 'gpv'"),
        (("bench", "absent.toml"), "no such suite file: absent.toml"),
        (("bench", "--fast", "3"), "No such option: --fast"),
        (("bnch",), "No such command 'bnch'"),
        (("fleet", "two-gigawatts"), "unknown scenario 'two-gigawatts' (did you mean 'one-gigawatt'?)"),
        (("fleet", "--reference", "nobody"), "unknown reference row 'nobody'"),
        (("kernels",), "Missing argument 'check|compile|bench|tune|work'"),
        (("doctor", "--simulate", "--trials", "0"), "'--trials'"),
    ],
)
def test_a_wrong_command_line(tokenwatt, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    outcome = tokenwatt(*arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert outcome.err.startswith("tokenwatt: ")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_gpu_system_in_a_scenario(tokenwatt, tmp_path):
    path = tmp_path / "scenario.toml"
    path.write_text(
        'name = "x"\npower_budget_w = 1e9\nsystems = ["B2000 SXM"]\n'
        'reference = "mlenergy-h100-llama-3.1-8b-chat-c128"\n'
    )
    outcome = tokenwatt("fleet", str(path), "-o", str(tmp_path / "fleet.parquet"))
    assert outcome.code == 2
    assert "'B2000 SXM' (did you mean 'B200 SXM'?)" in outcome.err
    assert not (tmp_path / "fleet.parquet").exists()


def test_a_results_folder_that_cannot_be_written(tokenwatt, tmp_path):
    (tmp_path / "file").write_text("in the way")
    outcome = tokenwatt("bench", "demo", "--results", str(tmp_path / "file"))
    assert outcome.code == 2
    assert "cannot write results there" in outcome.err
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_results_file_cut_short(tokenwatt, tmp_path):
    good = store.write([measurement(run_id="good")], Measurement, tmp_path / "good")
    bad = store.write([measurement(run_id="bad")], Measurement, tmp_path / "bad")
    bad.write_bytes(bad.read_bytes()[:100])
    before = good.read_bytes()
    outcome = tokenwatt("report", str(tmp_path), "-o", str(tmp_path / "report.html"))
    assert outcome.code == 2
    assert "bad/measurements.parquet: not a complete parquet file" in outcome.err
    assert not (tmp_path / "report.html").exists()
    assert good.read_bytes() == before
