"""What the options become in the kernels. Their refusals are in test_arguments.py."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt_kernels.attention import options as softmax
from tokenwatt_kernels.attention.options import Options, scale_stride


def test_scale_defaults_to_the_root_of_the_head_dim():
    # 1 / sqrt(64) = 0.125.
    assert Options().resolved_scale(64) == 0.125
    assert Options(scale=0.3).resolved_scale(64) == 0.3


def test_factor_by_hand():
    # 2^(factor * q.k) = e^(scale * q.k): factor = 0.125 / ln 2.
    assert Options().factor(64) == pytest.approx(0.125 / math.log(2))
    # 2^(factor * q.k) = e^(2 x) with x = scale * q.k / c: factor = 2 * 0.125 / (50 ln 2).
    assert Options(softcap=50.0).factor(64) == pytest.approx(0.005 / math.log(2))


def test_cap_is_in_log2_units():
    assert Options().cap == 0.0
    assert Options(softcap=50.0).cap == pytest.approx(50 / math.log(2))


@given(product=st.floats(-300, 300), softcap=st.floats(0.1, 100), scale=st.floats(0.01, 2))
def test_the_kernels_cap_is_a_tanh(product, softcap, scale):
    # As online_softmax.py has it: cap - 2 cap / (1 + 2^(product * factor)), in log2 units.
    options = Options(scale=scale, softcap=softcap)
    exponent = product * options.factor(1)
    grown = 2.0**exponent if exponent < 1000 else math.inf
    capped = options.cap - 2 * options.cap / (1 + grown)
    expected = softcap * math.tanh(scale * product / softcap)
    assert capped * math.log(2) == pytest.approx(expected, rel=1e-9, abs=1e-12 * softcap)


def test_one_factor_for_all_heads_has_no_stride():
    assert scale_stride(None) == 0
    assert scale_stride(torch.ones(1)) == 0
    assert scale_stride(torch.ones(4)) == 1


@pytest.mark.parametrize("heads", [1, 2])
def test_good_options_pass(heads):
    q, scale = torch.zeros(3, 4, 16), torch.ones(heads)
    options = Options(0.5, False, 1, 30.0, torch.zeros(4), scale, scale, scale)
    softmax.check(options, q, kv_heads=2)
    softmax.check(softmax.DEFAULT, q, kv_heads=2)
