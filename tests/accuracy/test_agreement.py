"""Two sets of log-probabilities, compared by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.analysis.agreement import compare
from tokenwatt.errors import EngineError

LOGPROBS = st.lists(st.floats(-30, 0), min_size=1, max_size=20)


def test_differences_and_perplexities_of_given_numbers():
    found = [np.log([0.5, 0.25]), np.log([0.125])]
    reference = [np.log([0.25, 0.25]), np.log([0.5])]
    agreement = compare(found, reference)
    # |ln 2|, 0, |ln 4|: 3 ln 2 / 3. Perplexities: (2 * 4 * 8) ** (1 / 3) = 4, and (4 * 4 * 2) ** (1 / 3).
    assert agreement.tokens == 3
    assert agreement.mean_difference == pytest.approx(math.log(2))
    assert agreement.perplexity == pytest.approx(4.0)
    assert agreement.reference_perplexity == pytest.approx(32 ** (1 / 3))
    assert agreement.perplexity_ratio == pytest.approx(4 / 32 ** (1 / 3))


def test_each_limit_objects_on_its_own():
    # Off by 0.2 to either side: the mean log-probability is the same, so the perplexities are.
    agreement = compare([np.array([-1.2, -0.8])], [np.array([-1.0, -1.0])])
    assert agreement.objections(0.25, 1.05) == []
    assert agreement.objections(0.1, 1.05) == ["mean difference 0.2 nats > 0.1"]
    # Off by 0.2 to one side: ratio e ** 0.2 = 1.2214.
    agreement = compare([np.array([-1.2, -1.2])], [np.array([-1.0, -1.0])])
    assert agreement.objections(0.25, 1.05) == ["perplexity ratio 1.221 > 1.05"]
    # A model that is surer than its reference is another one too.
    agreement = compare([np.array([-0.8, -0.8])], [np.array([-1.0, -1.0])])
    assert agreement.objections(0.25, 1.05) == ["perplexity ratio 1.221 > 1.05"]


@pytest.mark.parametrize("broken", [math.nan, -math.inf, math.inf])
def test_what_is_no_number_never_agrees(broken):
    for pair in (([broken, -1.0], [-1.0, -1.0]), ([-1.0, -1.0], [broken, -1.0])):
        agreement = compare(*([np.array(side)] for side in pair))
        assert agreement.mean_difference == math.inf
        assert len(agreement.objections(100.0, 100.0)) >= 1


def test_another_number_of_tokens_is_an_error():
    with pytest.raises(EngineError, match="prompt 1: 2 log-probabilities, and 1 of the reference"):
        compare([np.zeros(3), np.zeros(2)], [np.zeros(3), np.zeros(1)])
    with pytest.raises(EngineError, match="no prompt has two tokens"):
        compare([np.zeros(0)], [np.zeros(0)])


@given(LOGPROBS, st.data())
def test_the_mean_difference_is_no_less_than_the_logarithm_of_the_ratio(logprobs, data):
    other = data.draw(st.lists(st.floats(-30, 0), min_size=len(logprobs), max_size=len(logprobs)))
    agreement = compare([np.array(logprobs)], [np.array(other)])
    assert agreement.mean_difference >= math.log(agreement.perplexity_ratio) - 1e-9


@given(LOGPROBS)
def test_an_engine_agrees_with_itself(logprobs):
    agreement = compare([np.array(logprobs)], [np.array(logprobs)])
    assert (agreement.mean_difference, agreement.perplexity_ratio) == (0.0, 1.0)
