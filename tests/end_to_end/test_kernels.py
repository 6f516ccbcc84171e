"""`tokenwatt kernels` hands over to the kernels' own process and passes its exit code on."""

from __future__ import annotations

import json

import pytest
import torch


def test_check_runs_the_gate_in_the_interpreter(tokenwatt):
    outcome = tokenwatt("kernels", "check", "matmul.dense", "--dtype", "float32", "--device", "cpu", "--json")
    assert outcome.code == 0
    verdicts = json.loads(outcome.out)
    assert verdicts
    assert all(verdict["status"] != "failed" for verdict in verdicts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_bench_without_a_gpu_is_refused_in_one_line(tokenwatt):
    outcome = tokenwatt("kernels", "bench")
    assert outcome.code == 2
    printed = outcome.err.strip()
    assert "bench needs a CUDA GPU, found none" in printed
    assert len(printed.splitlines()) == 1


def test_an_unknown_target_is_answered_in_one_line(tokenwatt):
    outcome = tokenwatt("kernels", "compile", "--target", "42")
    assert outcome.code == 2
    assert "invalid choice: 42 (choose from 80, 86, 89, 90, 100, 103, 107, 120)" in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_an_unknown_family_is_answered(tokenwatt):
    outcome = tokenwatt("kernels", "check", "matmul.dens")
    assert outcome.code == 2
    assert "family must be one of" in outcome.err
