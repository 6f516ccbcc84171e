"""Head dimensions in powers of two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt_kernels.attention.heads import (
    MIN_PART,
    is_key_dim,
    is_power_of_two,
    key_parts,
    next_power_of_two,
    row_block,
    value_block,
)

POWERS = [2**exponent for exponent in range(21)]


@pytest.mark.parametrize(
    ("head_dim", "parts"), [(16, (16, 0)), (48, (32, 16)), (80, (64, 16)), (96, (64, 32)), (576, (512, 64))]
)
def test_key_parts_by_hand(head_dim, parts):
    assert key_parts(head_dim) == parts
    assert is_key_dim(head_dim)


@given(st.integers(1, 2**16))
def test_key_parts_add_up_and_the_main_part_is_the_largest_power_of_two(head_dim):
    main, tail = key_parts(head_dim)
    assert main + tail == head_dim
    assert main == max(power for power in POWERS if power <= head_dim)


@given(st.integers(-4, 2**12))
def test_a_key_dim_is_one_or_two_powers_of_two_from_16(head_dim):
    parts = [power for power in POWERS if power >= MIN_PART]
    sums = {first + second for first in parts for second in (0, *parts) if first != second}
    assert is_key_dim(head_dim) == (head_dim in sums)


@given(st.integers(1, 2**16))
def test_next_power_of_two(number):
    assert next_power_of_two(number) == min(power for power in POWERS if power >= number)
    assert is_power_of_two(number) == (number in POWERS)


@given(st.integers(1, 2**16))
def test_value_block_is_the_smallest_that_holds_the_values(value_dim):
    assert value_block(value_dim) == min(power for power in POWERS if power >= max(value_dim, MIN_PART))


@given(rows=st.integers(1, 2**12), most=st.sampled_from([16, 32, 64, 128]))
def test_row_block_holds_the_rows_or_is_the_most(rows, most):
    block = row_block(rows, most)
    assert block in POWERS
    assert MIN_PART <= block <= most
    assert block >= rows or block == most
    assert block == MIN_PART or block // 2 < rows


@pytest.mark.parametrize(("rows", "block"), [(1, 16), (16, 16), (17, 32), (40, 64), (64, 64), (65, 64)])
def test_row_block_by_hand(rows, block):
    assert row_block(rows, most=64) == block
