"""The wing as a whole: examples in docstrings hold, ranges refuse nonsense, and torch is never imported."""

import doctest
import subprocess
import sys
from types import ModuleType

import pytest

from tokenwatt.economics import formulas
from tokenwatt.reference import ranges, systems
from tokenwatt.reference.ranges import Range
from tokenwatt.report import tables


@pytest.mark.parametrize("module", [formulas, ranges, systems, tables], ids=lambda module: module.__name__)
def test_examples_hold(module: ModuleType) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize("ends", [(2.0, 1.0, 3.0), (1.0, 3.0, 2.0), (0.0, 1.0, 2.0), (1.0, float("nan"), 2.0)])
def test_a_range_is_ordered_and_positive(ends: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="0 < low <= central <= high"):
        Range(*ends)


def test_cut_off_at_a_ceiling() -> None:
    assert Range(1.0, 2.0, 4.0).at_most(1.5) == Range(1.0, 1.5, 1.5)


def test_runs_without_torch_and_draws_nothing_early() -> None:
    code = (
        "import sys, tokenwatt.report.html, tokenwatt.economics.scenario\n"
        "sys.exit(','.join({'torch', 'triton', 'pynvml', 'plotly', 'jinja2'} & set(sys.modules)) or None)"
    )
    paths = ":".join(path for path in sys.path if path)
    found = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": paths}, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
