"""The parts of the gate on tensors: guards, poison and the verdict, with a plain-torch kernel in place of ours."""

from __future__ import annotations

import itertools

import pytest
import torch

from tokenwatt_kernels import testing

CPU = torch.device("cpu")


def make_case(launch, dtype_name="float32"):
    truth = torch.linspace(-2.0, 2.0, 12, dtype=torch.float64).reshape(3, 4)
    return testing.Case("case", dtype_name, CPU, (3, 4), lambda out: launch(out, truth), lambda dtype: truth.to(dtype))


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
        "empty", "float32", CPU, (0, 4), lambda out: None, lambda dtype: torch.empty(0, 4, dtype=dtype)
    )
    assert testing.check(empty).status == "passed"
