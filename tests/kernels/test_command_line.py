"""python -m tokenwatt_kernels: names and exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import tokenwatt_kernels
from tokenwatt_kernels import commands, mutation, testing
from tokenwatt_kernels.__main__ import main
from tokenwatt_kernels.families import FAMILIES, known_names, part, select

README = Path(tokenwatt_kernels.__file__).parents[1] / "README.md"

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA GPU is here")


def test_unknown_family_lists_the_known_ones(capsys):
    assert main(["compile", "attention.sideways"]) == 2
    known = ", ".join(known_names())
    assert capsys.readouterr().err == f"family must be one of {known}, got attention.sideways\n"


@without_cuda
@pytest.mark.parametrize("arguments", [["bench"], ["check", "--device", "cuda"]])
def test_gpu_command_without_a_gpu_is_one_line_and_exit_code_2(arguments, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "needs a CUDA GPU, found none" in captured.err
    assert captured.err.count("\n") == 1


def test_compile_prints_json(capsys):
    assert main(["compile", "matmul.dense", "--target", "90", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["target"] for row in rows} == {"sm_90"}
    assert {row["status"] for row in rows} == {"passed"}


@pytest.mark.parametrize(
    ("statuses", "code", "summary"),
    [
        (["passed", "passed"], 0, "2 of 2 passed"),
        (["passed", "skipped", "passed"], 0, "2 of 3 passed, 1 skipped"),
        (["failed", "skipped", "failed"], 1, "2 of 3 FAILED: specimen 0 sm_90, specimen 2 sm_90"),
    ],
)
def test_compile_ends_with_a_summary(monkeypatch, capsys, statuses, code, summary):
    compiling = pytest.importorskip("tokenwatt_kernels.compiling", reason="needs triton")
    reports = [
        compiling.CompileReport(f"specimen {number}", "sm_90", "3.9", status, ())
        for number, status in enumerate(statuses)
    ]
    monkeypatch.setattr(commands, "compile_all", lambda *_: iter(reports))
    assert main(["compile"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(statuses) + 1
    assert lines[-1] == summary


def test_check_names_what_failed(monkeypatch, capsys):
    verdict = testing.Verdict("case", "float32", "cpu", "failed", ("reason",), 1.0, 0.0, 0.5, 1.0, 0.25)
    mutants = [
        mutation.MutantVerdict("is right", "matmul.dense", "float32", "failed", ("must reject",), ()),
        mutation.MutantVerdict("is wrong", "matmul.dense", "float32", "passed", (), ("too far off",)),
    ]
    monkeypatch.setattr(commands, "check", lambda *_: iter([verdict]))
    monkeypatch.setattr(commands, "check_mutants", lambda *_: iter(mutants))
    assert main(["check", "--device", "cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "    reason"
    assert lines[2].startswith("ACCEPTED mutant matmul.dense is right")
    assert lines[4].startswith("rejected mutant matmul.dense is wrong")
    # Errors: 1.0 of 0.5 is 200 %, 1.0 of 0.25 is 400 %.
    assert lines[5] == (
        "1 of 1 FAILED: case float32, worst error 400 % of its limit (case float32); 1 of 2 mutants rejected, "
        "NOT: matmul.dense is right"
    )


def test_work_writes_its_table_between_the_markers(tmp_path, capsys):
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- work table: begin -->\n<!-- work table: end -->\nb\n")
    ceilings = ["--flop-per-s", "1e12", "--bytes-per-s", "1e9"]
    assert main(["work", "matmul.dense", *ceilings, "--markdown", str(path)]) == 0
    # The first bench problem is 2 * m * n * k flop; at 1e12 flop/s and 1e9 byte/s the limits meet at 1000 flop/byte.
    text = capsys.readouterr().out
    assert text.startswith("bfloat16 at 1 TFLOP/s and 0.001 TB/s; the two limits meet at 1000 flop/byte.")
    assert path.read_text() == f"a\n<!-- work table: begin -->\n\n{text}\n<!-- work table: end -->\nb\n"


def test_readme_has_the_work_of_today(capsys):
    assert main(["work"]) == 0
    assert capsys.readouterr().out in README.read_text(), "run `make kernels`"


@pytest.mark.parametrize("number", ["0", "-1", "nan", "inf", "much"])
def test_ceilings_are_positive_numbers(number, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["work", "--flop-per-s", number])
    assert stopped.value.code == 2
    assert f"must be a number > 0, got {number}" in capsys.readouterr().err


def test_no_names_select_every_family():
    assert select([]) == tuple(FAMILIES)


def test_a_group_selects_its_families_in_the_order_of_the_table():
    assert select(["attention"]) == ("attention.prefill", "attention.decode")
    assert select(["attention.decode", "attention"]) == ("attention.prefill", "attention.decode")
    assert select(["matmul"]) == ("matmul.dense", "matmul.skinny", "matmul.packed", "matmul.nvfp4")


def test_an_unknown_family_is_answered_with_the_known_ones():
    known = re.escape(", ".join(known_names()))
    with pytest.raises(ValueError, match=f"family must be one of {known}, got attention.upside"):
        select(["attention.upside"])


@pytest.mark.parametrize("family", FAMILIES)
def test_problem_names_are_unique(family):
    problems = part(family, "problems")
    names = [p.name for p in (*problems.GATE_PROBLEMS, *problems.GPU_GATE_PROBLEMS, *problems.BENCH_PROBLEMS)]
    assert len(names) == len(set(names))
