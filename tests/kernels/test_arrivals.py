"""The last program of a tile adds up its parts: the counters that tell which it is, and what it answers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

arrivals = pytest.importorskip("tokenwatt_kernels.arrivals", reason="needs triton")

CPU = torch.device("cpu")
FAMILIES = ("matmul.skinny", "matmul.packed", "matmul.nvfp4", "attention.decode")


def ring(size):
    """Counters that are their own places."""
    return arrivals.Ring(torch.arange(size, dtype=torch.int32))


def test_pieces_follow_each_other_aligned_and_begin_again_where_the_rest_is_too_short():
    counters = ring(16)
    # 3 fill up to 4, 5 to 8; of the last 4 two are not enough for 5, so that these are the first again.
    taken = [counters.take(count).tolist() for count in (3, 5, 5, 4, 4)]
    assert taken == [[0, 1, 2], [4, 5, 6, 7, 8], [0, 1, 2, 3, 4], [8, 9, 10, 11], [12, 13, 14, 15]]


def test_all_may_be_taken_at_once_and_then_all_again():
    counters = ring(10)
    assert [len(counters.take(10)), len(counters.take(10)), len(counters.take(0))] == [10, 10, 0]


@given(counts=st.lists(st.integers(1, 20), min_size=2, max_size=40))
def test_calls_share_no_counter_until_all_were_taken_once(counts):
    counters, in_use = ring(64), set()
    for count in counts:
        piece = counters.take(count).tolist()
        assert len(piece) == count
        assert piece[0] % arrivals.ALIGNMENT == 0
        if piece[0] == 0:
            in_use.clear()
        assert in_use.isdisjoint(piece)
        in_use.update(piece)


def test_pieces_are_parts_of_one_tensor_and_aligned_in_memory():
    counters = arrivals.Ring(torch.zeros(64, dtype=torch.int32))
    first, second = counters.take(3), counters.take(3)
    assert second.data_ptr() - first.data_ptr() == 16
    first += 1
    assert int(counters.zeros.sum()) == 3


@pytest.mark.parametrize("count", [0, 1, 7])
def test_without_a_gpu_every_call_has_counters_of_its_own(count):
    first, second = arrivals.counters(count, CPU), arrivals.counters(count, CPU)
    first += 1
    assert (second.dtype, second.tolist()) == (torch.int32, [0] * count)


@pytest.mark.parametrize("device", [CPU, torch.device("cuda")], ids=str)
def test_more_tiles_than_counters_are_refused(device):
    with pytest.raises(ValueError, match="at most 1048576 tiles that are shared, got 1048577"):
        arrivals.counters(arrivals.COUNTERS + 1, device)


@pytest.fixture(scope="module")
def rows_of(run_interpreted):
    """What joining tiles did in the interpreter, by family."""
    return run_interpreted("joins.py")


@pytest.mark.parametrize("family", FAMILIES)
def test_tiles_that_join_pass_the_gate(family, rows_of):
    rows = rows_of[family]
    assert {part for row in rows for part in row["parts"]} >= {2, 3}
    assert max(part for row in rows for part in row["parts"]) > 3
    assert [row for row in rows if row["objections"]] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_bits_are_those_of_two_launches_whichever_program_comes_last(family, rows_of):
    assert [row["case"] for row in rows_of[family] if not row["same"]] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_counters_are_zero_again_after_every_launch(family, rows_of):
    rows = rows_of[family]
    # The gate's run, one with the programs in their order, and one backwards.
    assert {row["launches"] for row in rows} == {3}
    assert [row["case"] for row in rows if row["left"]] == []
