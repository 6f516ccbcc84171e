"""Which curve answers for an operator on a system, and under what ceilings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from tokenwatt.errors import UserError, unknown_name
from tokenwatt.perf_model.operator_time.ceilings import ceilings_of, runs_at
from tokenwatt.perf_model.operator_time.curves import STAND_INS, Curve
from tokenwatt.perf_model.operator_time.operators import Ceilings, operator_of
from tokenwatt.perf_model.operator_time.precision import PRECISIONS, precision
from tokenwatt.perf_model.operator_time.trend import load_trend, measured_curve
from tokenwatt.reference.ranges import Case
from tokenwatt.reference.systems import load_system

Method = Literal["silicon", "specs"]


@dataclass(frozen=True, slots=True)
class ResolvedCurve:
    """The curve that answers for an operator on a system."""

    curve: Curve
    method: Method
    note: str
    """What stands in for what; empty where the very curve was measured."""


def curve(gpu: str, engine: str, operator: str, dtype: str, exclude_gpus: Collection[str] = ()) -> ResolvedCurve:
    """The curve of `operator` in `dtype` on `gpu` as `engine` runs it.

    Measured there, or: the nearest precision, each with the nearest engine (`curves.candidates`); else the same from
    the trend of the other systems (`trend`). A GPU in `exclude_gpus` counts as one without tables, for itself and
    for the trend.

    Raises:
        UserError: an unknown engine, operator or dtype, or an operator that no system was measured at.
    """
    return _resolve(gpu, engine, operator, dtype, tuple(sorted(set(exclude_gpus))))


@lru_cache(maxsize=8192)
def _resolve(gpu: str, engine: str, operator: str, dtype: str, exclude: tuple[str, ...]) -> ResolvedCurve:
    if engine not in STAND_INS:
        raise unknown_name("engine", engine, STAND_INS)
    precision(dtype)
    operator_of(operator)
    if gpu not in exclude:
        own = measured_curve(gpu, engine, operator, dtype)
        if own is not None:
            return ResolvedCurve(own, "silicon", _stand_in(own, engine, dtype))
    found = load_trend(exclude).curve(gpu, engine, operator, dtype)
    if found is None:
        raise UserError(f"no system was measured at {operator} in {dtype} or a precision near it")
    start = f"from {', '.join(found.ancestors)}"
    stand_in = _stand_in(found.curve, engine, dtype)
    return ResolvedCurve(found.curve, "specs", f"{start}; {stand_in}" if stand_in else start)


def _stand_in(found: Curve, engine: str, dtype: str) -> str:
    parts = []
    if found.key.engine != engine:
        parts.append(f"{found.key.engine} for {engine}")
    if found.key.dtype != dtype:
        parts.append(f"{found.key.dtype} for {dtype}")
    return ", ".join(parts)


@lru_cache(maxsize=1024)
def known_ceilings(system: str, dtype: str, case: Case) -> Ceilings:
    """`ceilings_of` a system by its name.

    Raises:
        UserError: the system has no such precision.
    """
    spec = load_system(system)
    if not runs_at(spec, dtype):
        having = [name for name in PRECISIONS if runs_at(spec, name)]
        raise UserError(f"{system} has no {dtype}; it has {', '.join(having)}")
    return ceilings_of(spec, dtype, case)
