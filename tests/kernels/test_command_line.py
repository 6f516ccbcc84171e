"""python -m tokenwatt_kernels: names and exit codes."""

from __future__ import annotations

import json

import pytest
import torch

from tokenwatt_kernels.__main__ import main
from tokenwatt_kernels.families import FAMILIES, part, select

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA GPU is here")


def test_unknown_family_lists_the_known_ones(capsys):
    assert main(["compile", "attention.sideways"]) == 2
    known = "attention.prefill, attention.decode, matmul.dense"
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


def test_no_names_select_every_family():
    assert select([]) == tuple(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_problem_names_are_unique(family):
    problems = part(family, "problems")
    names = [p.name for p in (*problems.GATE_PROBLEMS, *problems.GPU_GATE_PROBLEMS, *problems.BENCH_PROBLEMS)]
    assert len(names) == len(set(names))
