"""Number formatting and the doctests of the ground floor."""

import doctest

import pytest

from tokenwatt import errors, terminal, units


@pytest.mark.parametrize("module", [units, errors, terminal])
def test_doctests(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0 s"),
        (999.6, "1.00 ks"),  # rounds up into the next prefix instead of '1000 s'
        (999.4, "999 s"),
        (0.0009996, "1.00 ms"),
        (9.9996e-3, "10.0 ms"),
        (12.345e-6, "12.3 µs"),
        (-2500.0, "-2.50 ks"),
        (float("nan"), "–"),
    ],
)
def test_format_si_keeps_three_digits(value, expected):
    assert units.format_si(value, "s") == expected
