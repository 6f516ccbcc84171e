"""Few choices meet all that they promise to."""

from __future__ import annotations

import doctest
from itertools import combinations, product

from hypothesis import given
from hypothesis import strategies as st

from tokenwatt_kernels import pairwise

OPTIONS = st.lists(st.integers(1, 4).map(range), min_size=2, max_size=4)


def test_doctests():
    assert doctest.testmod(pairwise).failed == 0


@given(options=OPTIONS)
def test_every_two_values_of_different_options_meet_once_or_more(options):
    found = pairwise.every_pair(*options)
    assert len(found) == len(set(found))
    for (first, values), (second, others) in combinations(enumerate(options), 2):
        assert {(choice[first], choice[second]) for choice in found} == set(product(values, others))


def test_four_options_of_three_need_far_fewer_than_all():
    # 9 pairs of two options of three values need 9 choices; all are 81.
    assert 9 <= len(pairwise.every_pair(*[range(3)] * 4)) <= 12
