"""Parameters of power for a GPU on which none was measured, from those on which it was.

Two ways to carry an energy over: it stays what it is (pJ), or it keeps its share of the board's limit at the peak rate
(pJ/FLOP * peak / TDP, pJ/byte * bandwidth / TDP). Measured boards decide between them no better than this: the central
value is the geometric mean of both, and half of their distance is part of the uncertainty. Powers (static, busy) keep
their share of the limit.

The boards of a generation are averaged, and the nearest generation is taken, the newer of two. Its uncertainty, as
standard deviations of the logarithm that add in squares:

- the range of the fit;
- the difference between boards of one generation, over all parameters;
- for each generation in between, the step from one to the next over all parameters;
- half of the distance of the two ways.

Where fewer than two boards, or generations, are known, `generation_log_sd` (an assumption) stands in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tokenwatt.errors import UserError
from tokenwatt.perf_model.operator_power.rows import Name, Parameter, PowerRow, Rows, one
from tokenwatt.reference.systems import SystemSpec

Z80 = 1.2815515655446004
"""Standard deviations from the median to the 90th percentile."""
WIDTHS = ("bfloat16", "fp8", "fp4")
"""Formats by halving width."""
_GENERATIONS = {"H": 0, "GH": 0, "B": 1, "GB": 1, "R": 2, "VR": 2, "Rubin": 2}
"""Generation by the letters that a system's name starts with."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A positive parameter: median, and standard deviation of its logarithm."""

    value: float
    log_sd: float


def generation(system: str) -> int:
    """Generation of a system by its name; one after the last known for letters that are not known."""
    letters = re.match(r"[A-Za-z]+", system)
    return _GENERATIONS.get(letters.group() if letters else "", max(_GENERATIONS.values()) + 1)


def fitted(row: PowerRow) -> Estimate:
    """A row as median and spread."""
    if not row.low > 0:
        return Estimate(row.value, 1.0 if row.high > row.low else 0.0)
    return Estimate(row.value, math.log(row.high / row.low) / (2 * Z80))


def carried(
    target: SystemSpec, known: Mapping[str, tuple[SystemSpec, Rows]], unknown_log_sd: float
) -> dict[Name, Estimate]:
    """Parameters of `target` from the rows of the systems in `known`.

    Raises:
        UserError: nothing is known, or a Fact of a system is missing.
    """
    if not known:
        raise UserError(f"power of {target.name!r} needs fitted rows of at least one GPU, and all are excluded")
    nearest = min({generation(name) for name in known}, key=lambda age: (abs(age - generation(target.name)), -age))
    distance = abs(nearest - generation(target.name))
    near = {name: entry for name, entry in known.items() if generation(name) == nearest}
    names = list(dict.fromkeys(name for _, rows in near.values() for name in rows if _is_carried(name)))
    common = math.hypot(_within(known, unknown_log_sd), distance * _step(known, unknown_log_sd))
    estimates = {name: _mean(name, target, near, common) for name in names if _is_available(name, target)}
    return _with_missing_formats(estimates, target)


def mean_of(known: Mapping[str, tuple[SystemSpec, Rows]], parameter: Parameter) -> float:
    """Mean of a parameter that is carried as it is."""
    return float(np.mean([one(rows, parameter).value for _, rows in known.values()]))


def _is_carried(name: Name) -> bool:
    return name[0] in ("static_w", "pj_per_flop", "pj_per_byte") or name[0].startswith("busy_")


def _is_available(name: Name, target: SystemSpec) -> bool:
    """Whether the target has the number format."""
    if name[0] != "pj_per_flop":
        return True
    try:
        target.flop_per_s(name[1])
    except UserError:
        return False
    return True


def _mean(name: Name, target: SystemSpec, near: Mapping[str, tuple[SystemSpec, Rows]], common: float) -> Estimate:
    """One parameter of the target from systems of one generation, by both ways."""
    having = [(spec, fitted(rows[name])) for spec, rows in near.values() if name in rows and rows[name].value > 0]
    if not having:
        return Estimate(0.0, 0.0)
    ways = [
        float(np.mean([math.log(estimate.value * to(target) / to(spec)) for spec, estimate in having]))
        for to in _ways(name)
    ]
    range_sd = float(np.mean([estimate.log_sd for _, estimate in having]))
    doubt = (max(ways) - min(ways)) / 2
    return Estimate(math.exp(float(np.mean(ways))), math.hypot(range_sd, common, doubt))


def _ways(name: Name) -> Sequence[Callable[[SystemSpec], float]]:
    """Scales of a system to which the parameter is taken to be proportional."""
    parameter, dtype = name
    if parameter == "pj_per_flop":
        return (lambda spec: 1.0, lambda spec: spec.tdp_w.value / spec.flop_per_s(dtype).value)
    if parameter == "pj_per_byte":
        return (lambda spec: 1.0, lambda spec: spec.tdp_w.value / spec.hbm_bytes_per_s.value)
    return (lambda spec: spec.tdp_w.value,)


def _scaled_logs(name: Name, entries: Sequence[tuple[SystemSpec, Rows]]) -> list[float]:
    """Logarithms of a parameter over its first scale."""
    scale = _ways(name)[0]
    return [math.log(rows[name].value / scale(spec)) for spec, rows in entries if name in rows and rows[name].value > 0]


def _by_generation(known: Mapping[str, tuple[SystemSpec, Rows]]) -> list[list[tuple[SystemSpec, Rows]]]:
    ages = sorted({generation(name) for name in known})
    return [[entry for name, entry in known.items() if generation(name) == age] for age in ages]


def _names(known: Mapping[str, tuple[SystemSpec, Rows]]) -> list[Name]:
    return sorted({name for _, rows in known.values() for name in rows if _is_carried(name)})


def _within(known: Mapping[str, tuple[SystemSpec, Rows]], otherwise: float) -> float:
    """How far boards of one generation lie apart, as a standard deviation over all parameters."""
    groups = [_scaled_logs(name, group) for group in _by_generation(known) for name in _names(known)]
    variances = [float(np.var(logs, ddof=1)) for logs in groups if len(logs) > 1]
    return math.sqrt(float(np.mean(variances))) if variances else otherwise


def _step(known: Mapping[str, tuple[SystemSpec, Rows]], otherwise: float) -> float:
    """Root mean square of the change from one generation to the next over all parameters."""
    squares = []
    for older, newer in pairwise(_by_generation(known)):
        for name in _names(known):
            before, after = _scaled_logs(name, older), _scaled_logs(name, newer)
            if before and after:
                squares.append((float(np.mean(after)) - float(np.mean(before))) ** 2)
    return math.sqrt(float(np.mean(squares))) if squares else otherwise


def _with_missing_formats(estimates: dict[Name, Estimate], target: SystemSpec) -> dict[Name, Estimate]:
    """With formats that no known board has: half of the energy of the next wider, between all of it and a quarter."""
    for wider, dtype in pairwise(WIDTHS):
        source: Name = ("pj_per_flop", wider)
        name: Name = ("pj_per_flop", dtype)
        if name not in estimates and source in estimates and _is_available(name, target):
            found = estimates[source]
            estimates[name] = Estimate(found.value / 2, math.hypot(found.log_sd, math.log(2) / Z80))
    return estimates
