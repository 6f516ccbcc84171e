"""`tokenwatt doctor --simulate`, as its users call it."""

from __future__ import annotations

import json

import pytest

SCRIPT = """
at = 0 80      # idle
at = 11 80
at = 12 400
boards = 2
board.1.at = 0 100
"""


def test_the_fault_table_is_printed_with_what_is_wrong_below(tokenwatt):
    outcome = tokenwatt("doctor", "--simulate")
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["fault", "verdict", "true", "J", "measured", "J", "error", "reasons"]
    (gap,) = [line for line in lines if line.startswith("no readings for half a second")]
    assert gap.split()[6:] == ["invalid", "9737.3", "–", "–", "ok", "sample_gap"]
    (summary,) = [line for line in lines if line.endswith("as they must be")]
    right, total = (int(word) for word in summary.split() if word.isdigit())
    assert outcome.code == (0 if right == total else 1)
    assert len([line for line in lines if ": must be " in line]) == total - right


def test_a_script_of_ones_own_is_measured_beside_the_truth(tokenwatt, tmp_path):
    path = tmp_path / "two.script"
    path.write_text(SCRIPT)
    outcome = tokenwatt("doctor", "--simulate", "--script", str(path), "--json")
    assert outcome.code == 0, outcome.err
    (row,) = json.loads(outcome.out)
    # 20 s of 400 W and 100 W.
    assert row["true_j"] == pytest.approx(10_000.0)
    assert row["measured_j"] == pytest.approx(10_000.0, rel=0.005)
    assert (row["scenario"], row["status"], row["reasons"], row["is_right"]) == ("two.script", "valid", [], True)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("foo = 1", ["--simulate"], "my.script: line 1: unknown key 'foo'; known: at clock"),
        ("boards = 0", ["--simulate"], "my.script: boards must be > 0, got 0; there is nothing to measure"),
        (None, ["--simulate"], "my.script: cannot be read"),
        ("at = 0 1", [], "--script and --trials say what to simulate, and nothing is simulated; add --simulate"),
        ("at = 0 1", ["--simulate", "--trials", "3"], "--trials has machines of its own and takes no --script"),
    ],
    ids=["unknown key", "no board", "no file", "no simulation", "script and trials"],
)
def test_wrong_input_is_one_line_and_exit_code_2(tokenwatt, tmp_path, text, options, message):
    path = tmp_path / "my.script"
    if text is not None:
        path.write_text(text)
    outcome = tokenwatt("doctor", *options, "--script", str(path))
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert message in line


def test_the_coverage_experiment_is_a_line_for_each_length_of_window(tokenwatt):
    outcome = tokenwatt("doctor", "--simulate", "--trials", "10", "--json")
    assert outcome.code == 0, outcome.err
    assert [(row["trials"], row["window_s"]) for row in json.loads(outcome.out)] == [(10, 5.0), (10, 20.0)]
    table = tokenwatt("doctor", "--simulate", "--trials", "3")
    assert "holds the truth" in table.out
