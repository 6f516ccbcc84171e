"""The frontier of a power-cap sweep: which cap is best, what it costs, and when that is only noise."""

from __future__ import annotations

import doctest

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import measurement, result

from tokenwatt import metrics
from tokenwatt.analysis import points, power_caps
from tokenwatt.analysis.power_caps import CapFrontier, frontiers, sentence
from tokenwatt.record import Measurement, Result

Interval = tuple[float, float | None, float | None]
Caps = dict[float | None, tuple[Interval, Interval]]
"""Cap -> tokens/s and J per output token, each as mean, low, high."""


def sweep(caps: Caps, **changes) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measurements and results of one point at caps."""
    rows, results = [], []
    for index, (cap_w, (speed, energy)) in enumerate(caps.items()):
        place = {"point_id": f"r/p{index}", "gpu_power_cap_w": cap_w, **changes}
        rows.append(measurement(measurement_id=f"r/{index}", **place))
        results.append(result(*speed, quantity="output_tokens_per_s", unit="token/s", **place))
        results.append(result(*energy, **place))
    return table(rows), pd.DataFrame([row.model_dump() for row in results], columns=list(Result.model_fields))


def table(rows: list[Measurement]) -> pd.DataFrame:
    return metrics.derive(pd.DataFrame([row.model_dump() for row in rows], columns=list(Measurement.model_fields)))


def only(caps: Caps) -> CapFrontier:
    (frontier,) = frontiers(*sweep(caps))
    return frontier


@pytest.mark.parametrize("module", [points, power_caps], ids=lambda module: module.__name__)
def test_examples_hold(module) -> None:
    outcome = doctest.testmod(module)
    assert (outcome.attempted > 0, outcome.failed) == (True, 0)


def test_the_best_cap_is_named_with_its_gain_and_its_price() -> None:
    frontier = only(
        {
            300.0: ((60.0, 59.0, 61.0), (0.25, 0.24, 0.26)),
            None: ((100.0, 99.0, 101.0), (0.25, 0.24, 0.26)),
            500.0: ((95.0, 94.0, 96.0), (0.2, 0.19, 0.21)),
        }
    )
    # 1 / 0.2 J = 5 tokens/J (1 / 0.21 = 4.76 to 1 / 0.19 = 5.26) against 1 / 0.25 = 4 (3.85 to 4.17): 4.76 > 4.17.
    assert [point.cap_w for point in frontier.points] == [None, 500.0, 300.0]
    assert frontier.best is not None
    assert frontier.best.cap_w == 500.0
    assert frontier.gain == pytest.approx(5 / 4 - 1)
    assert frontier.speed_loss == pytest.approx(1 - 95 / 100)
    # 300 W is slower than both and no more frugal than no cap.
    assert [point.is_pareto for point in frontier.points] == [True, True, False]
    assert sentence(frontier) == (
        "Best cap 500 W: 25.0 % more tokens per joule, 5.00 (4.76 to 5.26) against 4.00 (3.85 to 4.17) without a cap;"
        " it takes 5.0 % of the speed."
    )


def test_a_loss_of_speed_within_noise_is_not_claimed() -> None:
    frontier = only({None: ((100.0, 98.0, 102.0), (0.25, 0.24, 0.26)), 500.0: ((99.0, 97.0, 101.0), (0.2, 0.19, 0.21))})
    assert sentence(frontier).endswith("without a cap; the speed does not differ beyond noise.")


def test_a_cap_whose_interval_meets_that_of_no_cap_is_not_called_better() -> None:
    frontier = only({None: ((100.0, 99.0, 101.0), (0.25, 0.2, 0.3)), 500.0: ((95.0, 94.0, 96.0), (0.22, 0.19, 0.25))})
    # 1 / 0.25 = 4 at the low end is below 1 / 0.2 = 5 at the high end.
    assert frontier.best is None
    assert sentence(frontier).startswith("No cap is better beyond noise: most tokens per joule at 500 W, 4.55")


def test_single_windows_decide_nothing() -> None:
    frontier = only({None: ((100.0, None, None), (0.25, None, None)), 500.0: ((95.0, None, None), (0.2, None, None))})
    assert frontier.best is None
    assert sentence(frontier).startswith(
        "Not to be said without intervals: most tokens per joule at 500 W, 5.00 against"
    )


def test_no_cap_may_be_the_best() -> None:
    frontier = only({None: ((100.0, 99.0, 101.0), (0.2, 0.19, 0.21)), 500.0: ((95.0, 94.0, 96.0), (0.25, 0.24, 0.26))})
    assert frontier.best is None
    assert sentence(frontier) == "No cap is better: tokens per joule are most without a cap, 5.00 (4.76 to 5.26)."


def test_where_all_are_capped_the_highest_is_what_the_others_are_held_against() -> None:
    frontier = only({500.0: ((95.0, 94.0, 96.0), (0.2, 0.19, 0.21)), 700.0: ((100.0, 99.0, 101.0), (0.25, 0.24, 0.26))})
    assert frontier.reference.cap_w == 700.0
    assert "4.00 (3.85 to 4.17) at 700 W; it takes 5.0 % of the speed." in sentence(frontier)


def test_other_points_prefill_and_lonely_caps_are_no_sweep() -> None:
    capped: Caps = {500.0: ((95.0, 94.0, 96.0), (0.2, 0.19, 0.21))}
    assert frontiers(*sweep(capped)) == ()
    both: Caps = {**capped, None: ((100.0, 99.0, 101.0), (0.25, 0.24, 0.26))}
    assert frontiers(*sweep(both, phase="prefill")) == ()
    measurements, results = sweep(both)
    # The same caps at another concurrency are another point, not a cap of this one.
    measurements.loc[0, "concurrency"] = 8
    assert frontiers(measurements, results) == ()


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=2, max_size=6))
def test_each_beaten_cap_is_beaten_by_one_on_the_frontier(pairs: list[tuple[int, int]]) -> None:
    caps: Caps = {
        100.0 * (index + 1): ((float(speed), None, None), (1 / tokens_per_j, None, None))
        for index, (speed, tokens_per_j) in enumerate(pairs)
    }
    found = only(caps).points
    optimal = [(point.tokens_per_s.mean, point.tokens_per_j.mean) for point in found if point.is_pareto]
    assert optimal
    for point in found:
        speed, tokens_per_j = point.tokens_per_s.mean, point.tokens_per_j.mean
        beats = [
            pair for pair in optimal if pair[0] >= speed and pair[1] >= tokens_per_j and pair != (speed, tokens_per_j)
        ]
        assert point.is_pareto != bool(beats)
