"""The parts of the gate on tensors: guards, poison and the verdict, with a plain-torch kernel in place of ours."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from tokenwatt_kernels import testing
from tokenwatt_kernels.attention.cases import attention_cases
from tokenwatt_kernels.attention.decode.problems import tokens
from tokenwatt_kernels.attention.inputs import make_inputs
from tokenwatt_kernels.attention.prefill.problems import chunks, prompts
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.families import FAMILIES, part
from tokenwatt_kernels.matmul.problem import MatmulProblem

CPU = torch.device("cpu")
FP8 = "float8_e4m3fn"
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


SCALE = 0.25
STORED = torch.tensor([[1.0, -2.0], [3.5, 448.0]])


def quantised_case(launch):
    """An answer that is stored in float8 and stands for a quarter of that."""
    truth = STORED.double() * SCALE
    return testing.Case(
        "quantised", "float32", CPU, (2, 2), 1, launch, truth.to,
        held_to="float8_e4m3fn", out_dtype=torch.float8_e4m3fn, read=lambda stored: stored.double() * SCALE,
    )  # fmt: skip


def test_an_answer_is_read_before_it_is_judged():
    kinds = []

    def launch(out):
        kinds.append(out.dtype)
        out.copy_(STORED)

    verdict = testing.check(quantised_case(launch))
    assert (verdict.status, verdict.max_abs_error) == ("passed", 0.0)
    assert set(kinds) == {torch.float8_e4m3fn}
    # The limits are float8's: 0.0625 of the largest, 112, on top of twice the peer's error, 0.
    assert verdict.max_abs_limit == pytest.approx(7.0)
    assert verdict.rms_limit == DTYPES["float8_e4m3fn"].rms_floor


def test_the_guards_of_a_float8_answer_are_watched():
    def launch(out):
        out.copy_(STORED)
        out.as_strided((1,), (1,), out.storage_offset() - 1).fill_(1.0)

    assert testing.check(quantised_case(launch)).reasons == (
        "memory around the output must stay untouched, got a write",
    )


def test_a_float8_answer_that_is_not_written_is_noticed():
    assert "every output must be written and finite" in testing.check(quantised_case(lambda out: None)).reasons[0]


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
    for name in ("float16", "bfloat16", FP8):
        dtype = DTYPES[name]
        assert {(dtype.max_allowance(n), dtype.rms_limit(n)) for n in terms} == {(dtype.max_floor, dtype.rms_floor)}
    # What the interpreter sums is short, at most 2000 terms: 2^-24 * sqrt(2000) = 2.7e-6.
    assert max(DTYPES["float32"].rms_limit(p.terms) for p in problems.GATE_PROBLEMS) < 2.7e-6


def test_terms_are_the_longest_sum():
    assert MatmulProblem("m", 3, 5, 7).terms == 7
    assert prompts("p", (17, 63), 1, 1, head_dim=16).terms == 63
    assert chunks("p", (17,), (63,), 1, 1, head_dim=16).terms == 63
    assert tokens("d", (0, 15), 1, 1, head_dim=32).terms == 32


@pytest.mark.parametrize(("dtype_name", "out_dtype"), [(FP8, torch.bfloat16), ("float16", torch.float16)])
def test_answers_of_float8_are_bfloat16(dtype_name, out_dtype):
    seen = []

    def launch(out, truth):
        seen.append(out.dtype)
        out.copy_(truth)

    assert reasons(launch, dtype_name) == ""
    assert seen == [out_dtype] * 2


@pytest.mark.parametrize(("error", "verdict"), [(0.11, "passed"), (0.15, "failed")])
def test_float8_error_limit(error, verdict):
    # Largest value 2: the floor is 2^-4 * 2 = 0.125, and bfloat16 rounds by at most 2 * 2^-9 = 0.004, twice. One number
    # that is wrong by 0.11 moves the RMS by 0.11 / sqrt(12) = 0.032, which is 0.025 of the truth's 1.26.
    def launch(out, truth):
        out.copy_(truth)
        out[0, 0] -= error

    found = testing.check(make_case(launch, FP8))
    assert found.status == verdict
    assert 0.125 <= found.max_abs_limit <= 0.125 + 2 * 0.004


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_a_case_runs_as_often_as_it_is_asked_to(runs):
    count = itertools.count(1)

    def launch(out, truth):
        out.copy_(truth)
        next(count)

    assert testing.check(make_case(launch), runs=runs).status == "passed"
    assert next(count) == runs + 1


def test_one_run_is_still_held_against_the_truth_and_its_guards():
    def launch(out, truth):
        out.copy_(truth + 1)
        out.as_strided((1,), (1,), 0).zero_()

    found = testing.check(make_case(launch), runs=1)
    assert len(found.reasons) == 3
    assert "must stay untouched" in found.reasons[-1]


@pytest.mark.parametrize(
    ("slack_axis", "buffer_shape", "strides"),
    [
        # 2 guard rows before and after the first axis; 16 columns, or one head, or one key, more.
        (-1, (7, 2, 20), (40, 20, 1)),
        (-2, (7, 3, 4), (12, 4, 1)),
    ],
)
def test_slack_lies_at_the_end_of_its_axis(slack_axis, buffer_shape, strides):
    guarded = testing.guarded_empty((3, 2, 4), torch.float16, CPU, slack_axis=slack_axis)
    assert tuple(guarded.buffer.shape) == buffer_shape
    assert guarded.view.shape == (3, 2, 4)
    assert guarded.view.stride() == strides
    assert guarded.buffer.isnan().all()
    guarded.view.zero_()
    assert not guarded.is_breached()
    guarded.buffer[3, -1, -1] = 0
    assert guarded.is_breached()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16])
def test_guards_are_nan_in_every_dtype(dtype):
    guarded = testing.guarded_empty((1, 2), dtype, CPU)
    assert guarded.buffer.dtype == dtype
    assert guarded.buffer.float().isnan().all()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name.startswith("attention.")])
def test_inputs_are_nan_wherever_the_answer_must_not_look(family):
    for problem in part(family, "problems").GATE_PROBLEMS:
        inputs = make_inputs(problem, "float16", CPU)
        assert inputs.reference(torch.float32)[0].isfinite().all(), problem.name
        k = inputs.keys.k
        if problem.passes_int32:
            # Most of the pool is no memory yet; 32,768 pages of 256 * 4 * 64 = 2^16 elements precede the live ones.
            assert problem.spare_pages * k.stride(0) == 2**31
            assert (~k[problem.spare_pages :].isnan().any(dim=(-1, -2))).sum() == sum(problem.contexts)
            continue
        # Slack of one head after each key.
        assert k.stride(-3) == (problem.kv_heads + 1) * problem.head_dim
        slack = k.as_strided(
            (*k.shape[:-2], problem.head_dim), (*k.stride()[:-2], 1), k.storage_offset() + k.shape[-2] * k.stride(-2)
        )
        assert slack.isnan().all()
        if problem.page_size:
            is_key = ~k.isnan().any(dim=(-1, -2))
            assert is_key.sum() == sum(problem.contexts)
            assert not is_key[: problem.spare_pages].any()


def test_float8_inputs_are_nan_behind_the_context_too():
    problem = tokens("float8", (5, 18), 2, 1, 16, kv_dtype=FP8)
    k = make_inputs(problem, "bfloat16", CPU).keys.k.float()
    assert (~k.isnan().any(dim=(-1, -2))).sum() == 5 + 18
    assert torch.isfinite(k).sum() == (5 + 18) * 16


def test_log_sums_of_nothing_are_compared_too():
    # Two queries for one key: the first sees nothing, and its log-sum-exp of -inf is held against -1000.
    problem = chunks("nothing", (2,), (1,), 1, 1, 16, checks_lse=True)
    inputs = make_inputs(problem, "float32", CPU)

    def verdicts(change):
        def launch(out, log_sum):
            answer, lse = inputs.reference(torch.float32)
            out.copy_(answer)
            if log_sum is not None:
                log_sum.copy_(change(lse))

        return [testing.check(case, runs=1) for case in attention_cases("case", problem, "float32", inputs, launch)]

    assert [(v.case, v.status) for v in verdicts(lambda lse: lse)] == [("case", "passed"), ("case lse", "passed")]
    assert [v.status for v in verdicts(lambda lse: lse.nan_to_num(neginf=0.0))] == ["passed", "failed"]
    assert [v.status for v in verdicts(lambda lse: lse + 0.01)] == ["passed", "failed"]


def test_a_case_without_log_sums_is_one_case():
    problem = prompts("plain", (2,), 1, 1, 16)
    inputs = make_inputs(problem, FP8, CPU)

    def launch(out, log_sum):
        assert log_sum is None
        out.copy_(inputs.reference(torch.float32)[0])

    (case,) = attention_cases("case", problem, FP8, inputs, launch)
    assert testing.check(case, runs=1).status == "passed"
    assert inputs.options.q_scale is not None
