"""What a system could do at best, in the precision of an operator."""

from __future__ import annotations

from tokenwatt.perf_model.operator_time.operators import Ceilings
from tokenwatt.perf_model.operator_time.precision import precision
from tokenwatt.reference.ranges import Case
from tokenwatt.reference.systems import SystemSpec

_DIRECTIONS = 2
"""A Fact of a link counts both directions."""


def ceilings_of(system: SystemSpec, dtype: str, case: Case = "central") -> Ceilings:
    """Dense peak in the precision of `dtype`, memory bandwidth and link bandwidth in one direction, at one end of the
    ranges of their Facts.

    Raises:
        UserError: the system has no such peak, or no such Fact.
    """
    return Ceilings(
        system.flop_per_s(precision(dtype).peak).range.at(case),
        system.hbm_bytes_per_s.range.at(case),
        system.nvlink_bytes_per_s.range.at(case) / _DIRECTIONS,
    )


def runs_at(system: SystemSpec, dtype: str) -> bool:
    """Whether the system has a peak in the precision of `dtype`."""
    return system.has_peak(precision(dtype).peak)
