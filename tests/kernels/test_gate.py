"""The gate without a GPU: shipped kernels pass in Triton's interpreter, and wrong ones do not."""

from __future__ import annotations

import json

import pytest

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.families import FAMILIES


@pytest.fixture(scope="module")
def check_all(run_python):
    return run_python("-m", "tokenwatt_kernels", "check", "--device", "cpu", "--json")


@pytest.mark.parametrize("family", FAMILIES)
def test_shipped_kernels_pass_in_the_interpreter(family, check_all):
    assert check_all.returncode == 0, check_all.stdout + check_all.stderr
    verdicts = [verdict for verdict in json.loads(check_all.stdout) if verdict["case"].startswith(family)]
    assert [verdict for verdict in verdicts if verdict["status"] != "passed"] == []
    assert {verdict["dtype"] for verdict in verdicts} == set(DTYPES)


def test_gate_rejects_every_mutant_and_no_unchanged_kernel(run_interpreted):
    reasons = run_interpreted("mutants.py")
    passed = {name for name, against in reasons.items() if not against}
    assert passed == {f"unchanged {family}" for family in FAMILIES}
    assert len(reasons) >= 13 + len(FAMILIES)


def test_decode_reaches_pages_past_2_to_the_31_elements(run_interpreted):
    # Two fp16 answers of values around 1, each rounded by at most 2^-11, plus rounded weights.
    assert run_interpreted("far_pages.py") < 4e-3


def test_checking_in_the_wrong_process_is_refused(run_python):
    finished = run_python("-c", "from tokenwatt_kernels import interpreter; interpreter.enable()")
    assert finished.returncode == 1
    assert "TRITON_INTERPRET must be 1 before triton is imported" in finished.stderr
