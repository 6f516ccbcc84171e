"""The gate without a GPU: shipped kernels pass in Triton's interpreter, and wrong ones do not."""

from __future__ import annotations

import functools
import json

import pytest

from tokenwatt_kernels.families import FAMILIES, part

QUICK_DTYPES = ("bfloat16", "float8_e4m3fn")


GROUPS = tuple(dict.fromkeys(family.partition(".")[0] for family in FAMILIES))
# A gate of these takes more than a minute each in the interpreter; their kernels have quick tests of their own.
LONG = ("fused", "moe")
BY_GROUP = [
    pytest.param(family, marks=pytest.mark.slow if family.partition(".")[0] in LONG else ()) for family in FAMILIES
]


def check(run_python, group, *dtype_names):
    options = [argument for name in dtype_names for argument in ("--dtype", name)]
    finished = run_python("-m", "tokenwatt_kernels", "check", group, "--device", "cpu", "--json", *options)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return json.loads(finished.stdout)


@pytest.fixture(scope="module")
def rows_of(run_python):
    """What the gate says about a family; a group of them is checked when the first is asked for."""
    found = functools.cache(lambda group: check(run_python, group, *QUICK_DTYPES))
    return lambda family: found(family.partition(".")[0])


@pytest.mark.parametrize("family", BY_GROUP)
def test_shipped_kernels_pass_in_the_interpreter(family, rows_of):
    verdicts = [row for row in rows_of(family) if "case" in row and row["case"].startswith(family)]
    assert [verdict for verdict in verdicts if verdict["status"] != "passed"] == []
    # Some cases have a dtype of their own beside those asked for.
    assert {verdict["dtype"] for verdict in verdicts} >= set(QUICK_DTYPES) & set(part(family, "problems").DTYPE_NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("dtype_name", ["float32", "float16"])
@pytest.mark.parametrize("group", GROUPS)
def test_shipped_kernels_pass_in_other_dtypes(group, dtype_name, run_python):
    assert {row["status"] for row in check(run_python, group, dtype_name)} == {"passed"}


@pytest.mark.parametrize("family", BY_GROUP)
def test_gate_rejects_every_mutant(family, rows_of):
    judged = {row["mutant"]: row for row in rows_of(family) if row.get("mutant") and row["family"] == family}
    assert set(judged) == {mutant.name for mutant in part(family, "mutants").MUTANTS}
    assert [name for name, row in judged.items() if row["status"] != "passed" or not row["objections"]] == []


def test_gate_passes_unchanged_kernels_that_are_loaded_as_mutants_are(run_interpreted):
    objections = run_interpreted("unchanged.py")
    assert set(objections) == set(FAMILIES)
    assert not any(objections.values())


def test_bf16_queries_of_any_size_meet_float8_keys(run_interpreted):
    # Answers are averages of values below 4 * 0.25 = 1: rounded to bf16 by at most 2^-9, after fp16 weights of 2^-11.
    errors = run_interpreted("operands.py")
    assert set(errors) >= {"-100", "0", "100", "two sizes", "zero", "infinity in another row"}
    assert {name: error for name, error in errors.items() if not error < 2**-9 + 2**-11} == {}


def test_checking_in_the_wrong_process_is_refused(run_python):
    finished = run_python("-c", "from tokenwatt_kernels import interpreter; interpreter.enable()")
    assert finished.returncode == 1
    assert "TRITON_INTERPRET must be 1 before triton is imported" in finished.stderr
