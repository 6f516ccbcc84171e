"""The search for the largest rate, on servers whose truth is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.analysis.max_rate import RateSearch, Try


def attempt(rate: float, good: int = 100, judged: int = 100, queue_grows: bool = False, share: float = 0.9) -> Try:
    return Try(rate, judged, good, queue_grows, share)


@given(st.floats(0.01, 1000.0), st.floats(0.01, 1000.0), st.sampled_from([0.01, 0.05, 0.2]))
def test_a_threshold_is_found_within_the_tolerance(truth, first, tolerance):
    search = RateSearch(first, tolerance, most=100)
    while (rate := search.next_rate()) is not None:
        search.tries.append(attempt(rate, good=100 if rate <= truth else 0))
    found = search.outcome()
    assert found.rate_per_s is not None
    assert found.rate_per_s <= truth < found.rate_per_s * (1 + tolerance) * (1 + 1e-9)


def test_the_order_of_tries_by_hand():
    search, rates = RateSearch(4.0, tolerance=0.5), []
    while (rate := search.next_rate()) is not None:
        rates.append(rate)
        search.tries.append(attempt(rate, good=100 if rate <= 10 else 0))
    # Doubles to 16, which breaks; sqrt(8 x 16) = 11.3 breaks too, and 11.3 / 8 is within 1.5.
    assert rates == pytest.approx([4.0, 8.0, 16.0, 128**0.5])
    assert search.outcome().rate_per_s == 8.0


def test_it_gives_up_after_so_many_tries():
    search = RateSearch(1.0, most=5)
    while (rate := search.next_rate()) is not None:
        search.tries.append(attempt(rate, good=0))
    assert [each.rate_per_s for each in search.tries] == [1.0, 0.5, 0.25, 0.125, 0.0625]
    found = search.outcome()
    assert (found.rate_per_s, found.low_per_s, found.high_per_s, found.tries) == (None, None, 0.0625, 5)


def test_what_is_sure_is_told_apart_from_what_was_seen():
    # Wilson at 95 % for 95 of 100: 0.888 to 0.978; for 990 of 1000: 0.982 to 0.995; for 80 of 100: 0.711 to 0.867.
    seen, sure, broken = attempt(1.0, 95), attempt(1.0, 990, 1000), attempt(1.0, 80)
    assert (seen.keeps, seen.surely_keeps, seen.surely_breaks) == (True, False, False)
    assert (sure.keeps, sure.surely_keeps) == (True, True)
    assert (broken.keeps, broken.surely_breaks) == (False, True)


def test_a_growing_queue_breaks_every_level():
    grows = attempt(1.0, queue_grows=True)
    assert (grows.keeps, grows.surely_breaks) == (False, True)


def test_without_requests_nothing_is_sure():
    silent = attempt(1.0, good=0, judged=0)
    assert (silent.keeps, silent.surely_keeps, silent.surely_breaks) == (False, False, False)


def test_a_rate_above_one_that_breaks_is_not_asked():
    search = RateSearch(1.0, tries=[attempt(1.0, 990, 1000), attempt(2.0, 0), attempt(3.0, 990, 1000)])
    found = search.outcome()
    assert (found.rate_per_s, found.low_per_s, found.high_per_s) == (1.0, 1.0, 2.0)
