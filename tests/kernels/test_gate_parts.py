"""The parts of the gate on tensors: guards, poison and the verdict, with a plain-torch kernel in place of ours."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from tokenwatt_kernels import testing
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.families import FAMILIES, part

CPU = torch.device("cpu")
TRUTH = torch.linspace(-2.0, 2.0, 12, dtype=torch.float64).reshape(3, 4)


def make_case(launch, dtype_name="float32", truth=TRUTH, terms=1):
    return testing.Case(
        name="case",
        dtype_name=dtype_name,
        device=CPU,
        out_shape=tuple(truth.shape),
        terms=terms,
        launch=lambda out: launch(out, truth),
        reference=truth.to,
    )


def reasons(launch, dtype_name="float32"):
    return " / ".join(testing.check(make_case(launch, dtype_name)).reasons)


def test_right_answer_passes():
    assert reasons(lambda out, truth: out.copy_(truth)) == ""


def test_unwritten_output_fails():
    assert "written and finite" in reasons(lambda out, truth: out[:2].copy_(truth[:2]))


@pytest.mark.parametrize(("error", "verdict"), [(1e-5, "passed"), (5e-3, "failed")])
def test_float16_error_limit(error, verdict):
    # Largest value 2: the floor is 4.9e-4 * 2 = 9.8e-4, and torch's own fp16 rounding adds at most 2 * 2^-11 = 9.8e-4.
    found = testing.check(make_case(lambda out, truth: out.copy_(truth + error), "float16"))
    assert found.status == verdict
    assert found.max_abs_limit <= 9.8e-4 + 9.8e-4


def test_different_bits_fail():
    runs = itertools.count()
    assert "same bits" in reasons(lambda out, truth: out.copy_(truth * (1 + 2e-7 * next(runs))))


@pytest.mark.parametrize("neighbour", [(-1, 0), (3, 0), (0, 4)], ids=["row before", "row after", "slack after a row"])
def test_write_around_the_output_fails(neighbour):
    def launch(out, truth):
        out.copy_(truth)
        out.as_strided((1,), (1,), out.storage_offset() + neighbour[0] * out.stride(0) + neighbour[1]).zero_()

    assert "must stay untouched" in reasons(launch)


def test_problem_without_output_passes():
    empty = testing.Case(
        "empty", "float32", CPU, (0, 4), 1, lambda out: None, lambda dtype: torch.empty(0, 4, dtype=dtype)
    )
    assert testing.check(empty).status == "passed"


def summed_one_after_another(a, b):
    """a @ b.T as exact fp32 products on a GPU sum it: each term joins an fp32 sum, rounded once."""
    total = np.zeros((len(a), len(b)), np.float32)
    for a_column, b_column in zip(a.T.astype(np.float64), b.T.astype(np.float64), strict=True):
        total = (total + np.multiply.outer(a_column, b_column)).astype(np.float32)
    return total


def rounded_to_tf32(values):
    """10 mantissa bits of fp32's 23, rounded half up."""
    return ((values.view(np.uint32) + (1 << 12)) & ~np.uint32((1 << 13) - 1)).view(np.float32)


@pytest.mark.parametrize("terms", [4096, 14_336])
def test_float32_limits_allow_a_sequential_sum_and_little_more(terms):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((rows, terms), np.float32) for rows in (8, 32))
    truth = a.astype(np.float64) @ b.astype(np.float64).T
    error = summed_one_after_another(a, b) - truth

    def verdict(answer):
        found = torch.from_numpy(answer)
        return testing.check(make_case(lambda out, _: out.copy_(found), truth=torch.from_numpy(truth), terms=terms))

    replayed = verdict(truth + error)
    assert replayed.status == "passed"
    # The derivation in dtypes.py bounds the RMS by u * sqrt(n/6), with a rounding error of u/sqrt(3) at worst and
    # u/sqrt(12) at best, as a mantissa goes from 1 to 2.
    derived = 2**-24 * math.sqrt(terms / 6)
    assert derived / 2 < replayed.rms_error < derived
    assert replayed.rms_limit == pytest.approx(math.sqrt(6) * derived)
    assert "rms_error" in verdict(truth + 4 * error).reasons[-1]
    assert len(verdict(rounded_to_tf32(a).astype(np.float64) @ rounded_to_tf32(b).astype(np.float64).T).reasons) == 2
    assert len(verdict(a[:, 1:].astype(np.float64) @ b[:, 1:].astype(np.float64).T).reasons) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_only_float32_limits_grow_with_the_terms(family):
    problems = part(family, "problems")
    terms = {p.terms for p in (*problems.GATE_PROBLEMS, *problems.GPU_GATE_PROBLEMS, *problems.BENCH_PROBLEMS)}
    for name in ("float16", "bfloat16"):
        dtype = DTYPES[name]
        assert {(dtype.max_allowance(n), dtype.rms_limit(n)) for n in terms} == {(dtype.max_floor, dtype.rms_floor)}
    # What the interpreter sums is short: there float32 stays at its RMS floor too.
    assert {DTYPES["float32"].rms_limit(p.terms) for p in problems.GATE_PROBLEMS} == {1e-6}


def test_terms_are_the_longest_sum():
    from tokenwatt_kernels.attention.decode.problems import DecodeProblem
    from tokenwatt_kernels.attention.prefill.problems import PrefillProblem
    from tokenwatt_kernels.matmul.dense.problems import MatmulProblem

    assert MatmulProblem("m", 3, 5, 7).terms == 7
    assert PrefillProblem("p", (17, 63), 1, 1, head_dim=16).terms == 63
    assert DecodeProblem("d", (0, 15), 1, 1, head_dim=32).terms == 32
