"""What cells have in common: two cells by hand, and what must hold for any."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.perf_model.cell_effects import Cell, Place, Spreads, cells_of, expected, fit_spreads, spread_within

SPREADS = Spreads(family=0.3, generation=0.2, cell=0.1, row=0.4)
PRIOR = 0.09 + 0.04 + 0.01
HOPPER = Place("vllm", "Qwen3-32B", "H100 SXM")
OTHER_BOARD = Place("vllm", "Qwen3-32B", "H200 SXM")
OTHER_MODEL = Place("vllm", "Llama-3.1-8B", "H100 SXM")
UNSEEN = Place("sglang", "GLM-5", "B200 SXM")


def test_one_cell_by_hand():
    mean, variance = expected([HOPPER, OTHER_BOARD, OTHER_MODEL, UNSEEN], [Cell(HOPPER, 0.5, 4)], SPREADS)
    # Noise 0.4^2 / 4 = 0.04. Shared: all 0.14; family and generation 0.13; generation alone 0.04; nothing.
    shared = np.array([0.14, 0.13, 0.04, 0.0])
    np.testing.assert_allclose(mean, shared / 0.18 * 0.5)
    np.testing.assert_allclose(variance, PRIOR - shared**2 / 0.18)


def test_two_cells_by_hand():
    cells = [Cell(HOPPER, 0.5, 4), Cell(OTHER_MODEL, -0.2, 16)]
    mean, variance = expected([OTHER_BOARD], cells, SPREADS)
    # K = [[0.14 + 0.04, 0.04], [0.04, 0.14 + 0.01]], determinant 0.18 x 0.15 - 0.04^2; with the case 0.13, 0.04.
    determinant = 0.18 * 0.15 - 0.0016
    weights = np.array([0.13 * 0.15 - 0.04 * 0.04, 0.04 * 0.18 - 0.13 * 0.04]) / determinant
    assert mean[0] == pytest.approx(weights @ [0.5, -0.2])
    assert variance[0] == pytest.approx(PRIOR - weights @ [0.13, 0.04])


def test_an_unseen_place_is_as_uncertain_as_before():
    mean, variance = expected([UNSEEN], [Cell(HOPPER, 0.5, 1000)], SPREADS)
    assert (mean[0], variance[0]) == (0, pytest.approx(PRIOR))
    mean, variance = expected([UNSEEN, UNSEEN], [], SPREADS)
    assert (list(mean), list(variance)) == ([0, 0], [pytest.approx(PRIOR)] * 2)


places = st.builds(
    Place,
    st.sampled_from(["vllm", "sglang"]),
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["H100 SXM", "H200 SXM", "B200 SXM", "another"]),
)
spreads = st.builds(Spreads, *[st.floats(0.01, 1)] * 4)
cells = st.lists(
    st.builds(Cell, places, st.floats(-2, 2), st.integers(1, 500)), max_size=8, unique_by=lambda c: c.place
)


@given(places, cells, spreads, st.integers(1, 100))
def test_variance_lies_between_none_and_the_prior_and_more_rows_never_raise_it(place, known, spread, more):
    prior = spread.family**2 + spread.generation**2 + spread.cell**2
    _, before = expected([place], known, spread)
    assert 0 <= before[0] <= prior * (1 + 1e-9)
    _, after = expected([place], [Cell(cell.place, cell.residual, cell.rows + more) for cell in known], spread)
    assert after[0] <= before[0] + 1e-9 * prior


def test_cells_leave_out_what_was_not_measured():
    found = cells_of([HOPPER, HOPPER, UNSEEN, HOPPER, OTHER_BOARD], np.array([1.0, 3.0, math.nan, 8.0, -1.0]))
    assert found == [Cell(HOPPER, 3.0, 3), Cell(OTHER_BOARD, -1.0, 1)]


def test_spread_within_cells_is_not_moved_by_what_differs_between_them():
    random = np.random.default_rng(1)
    residuals = np.concatenate([random.normal(mean, 0.1, 2000) for mean in (-3, 3)])
    assert spread_within([HOPPER] * 2000 + [UNSEEN] * 2000, residuals) == pytest.approx(0.1, rel=0.05)
    assert spread_within([HOPPER], np.array([math.nan])) == 0.01


def test_spreads_are_found_again():
    random = np.random.default_rng(2)
    known = []
    for family in range(60):
        common = random.normal(0, 0.3)
        for system in ("H100 SXM", "H200 SXM"):
            place = Place("vllm", f"model {family}", system)
            known.append(Cell(place, common + random.normal(0, 0.05), 10_000))
    found = fit_spreads(known, 0.1)
    assert found.family == pytest.approx(0.3, rel=0.2)
    assert found.cell == pytest.approx(0.05, rel=0.3)
    assert found.row == 0.1
