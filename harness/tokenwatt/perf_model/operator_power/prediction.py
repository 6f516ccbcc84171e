"""Power and energy of work on a system, with how sure it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tokenwatt.errors import UserError
from tokenwatt.perf_model.operator_power.model import NO_BUSY, PJ, Array, Coefficients, parts_w
from tokenwatt.perf_model.operator_power.model import slowdown as clock_slowdown
from tokenwatt.perf_model.operator_power.rows import Name, PowerRow, load_power_rows, one, rows_of
from tokenwatt.perf_model.operator_power.trend import Z80, Estimate, carried, fitted, mean_of
from tokenwatt.reference.facts import FactBook
from tokenwatt.reference.systems import load_system

Method = Literal["silicon", "specs"]
"""Fitted on measurements of this GPU, or carried over from others."""
Rates = Mapping[str, ArrayLike]


@dataclass(frozen=True, slots=True)
class OperatorPower:
    """Board power of one GPU of a system. Rates are per GPU; arrays broadcast."""

    system: str
    method: Method
    coefficients: Coefficients
    part_log_sd: Mapping[str, float]
    """Spread of each part of `model.parts_w`: standard deviation of its logarithm."""
    error_log_sd: float
    """What the form itself misses, with the meter's noise: standard deviation of the logarithm of power."""
    cap_w: float
    """Most that the board draws, W: its limit, less what its regulation keeps clear."""
    clock_exponent: float
    """Of power beside static, in the clock."""

    def demand_w(
        self, flop_per_s: Rates, bytes_per_s: ArrayLike, busy: Rates | None = None, link_bytes_per_s: ArrayLike = 0.0
    ) -> Array:
        """What the work would draw without a cap, W."""
        parts = parts_w(self.coefficients, flop_per_s, bytes_per_s, busy, link_bytes_per_s)
        return np.asarray(sum(parts.values()), float)

    def power_w(
        self, flop_per_s: Rates, bytes_per_s: ArrayLike, busy: Rates | None = None, link_bytes_per_s: ArrayLike = 0.0
    ) -> Array:
        """Mean board power while work is done at these rates, W; never above the cap.

        `flop_per_s` by dtype, memory `bytes_per_s`; `busy` the share of time that kernels of a family run.
        """
        return np.minimum(self.demand_w(flop_per_s, bytes_per_s, busy, link_bytes_per_s), self.cap_w)

    def log_sd(
        self, flop_per_s: Rates, bytes_per_s: ArrayLike, busy: Rates | None = None, link_bytes_per_s: ArrayLike = 0.0
    ) -> Array:
        """Standard deviation of the logarithm of demand: parts by their shares of it, and the error of the form."""
        parts = parts_w(self.coefficients, flop_per_s, bytes_per_s, busy, link_bytes_per_s)
        demand = sum(parts.values())
        squares = [(part / demand * self.part_log_sd.get(name, 0.0)) ** 2 for name, part in parts.items()]
        return np.sqrt(self.error_log_sd**2 + sum(squares))

    def range_w(
        self, flop_per_s: Rates, bytes_per_s: ArrayLike, busy: Rates | None = None, link_bytes_per_s: ArrayLike = 0.0
    ) -> tuple[Array, Array]:
        """Low and high end of power, between which it lies with 80 %, W."""
        demand = self.demand_w(flop_per_s, bytes_per_s, busy, link_bytes_per_s)
        spread = np.exp(Z80 * self.log_sd(flop_per_s, bytes_per_s, busy, link_bytes_per_s))
        return np.minimum(demand / spread, self.cap_w), np.minimum(demand * spread, self.cap_w)

    def slowdown(self, demand_w: ArrayLike) -> Array:
        """How much longer clock-bound work takes when it asks for `demand_w`; 1 below the cap."""
        return clock_slowdown(demand_w, self.cap_w, self.coefficients.static_w, self.clock_exponent)

    def energy_j(
        self,
        flop: Rates,
        bytes_moved: ArrayLike,
        seconds: ArrayLike,
        busy_s: Rates | None = None,
        link_bytes: ArrayLike = 0.0,
        at_full_clocks: bool = False,
    ) -> Array:
        """Energy of work that takes `seconds`, J.

        `at_full_clocks`: the seconds are those of a board without a cap, and are stretched where it asks for more.
        """
        duration = np.asarray(seconds, float)
        demand = self.demand_w(
            {dtype: np.asarray(count, float) / duration for dtype, count in flop.items()},
            np.asarray(bytes_moved, float) / duration,
            {family: np.asarray(busy, float) / duration for family, busy in (busy_s or {}).items()},
            np.asarray(link_bytes, float) / duration,
        )
        stretch = self.slowdown(demand) if at_full_clocks else 1.0
        return np.minimum(demand, self.cap_w) * duration * stretch


def load_operator_power(
    system: str,
    *,
    limit_w: float | None = None,
    exclude_gpus: Collection[str] = (),
    facts: FactBook | None = None,
    rows: Sequence[PowerRow] | None = None,
) -> OperatorPower:
    """Power of one GPU of `system`.

    `limit_w` is its power limit, by default that of the data sheet. Rows of systems in `exclude_gpus` are not used:
    with `system` itself among them it is predicted from the facts of its data sheet and from other GPUs.

    Raises:
        UserError: the system is unknown, a Fact is missing, every GPU is excluded, or the limit is not above static.
    """
    spec = load_system(system, facts)
    for name in exclude_gpus:
        load_system(name, facts)  # refuses a name that is misspelt, which would exclude nothing
    shipped = load_power_rows() if rows is None else tuple(rows)
    subjects = [name for name in dict.fromkeys(row.subject for row in shipped) if name and name not in exclude_gpus]
    known = {name: (load_system(name, facts), rows_of(shipped, name)) for name in subjects}
    world = rows_of(shipped, "")
    method: Method = "silicon" if system in known else "specs"
    if method == "silicon":
        near = {system: known[system]}
        estimates = {name: fitted(row) for name, row in known[system][1].items()}
    else:
        near = known
        estimates = carried(spec, known, one(world, "generation_log_sd").value)
    estimates["pj_per_link_byte", ""] = fitted(one(world, "pj_per_link_byte"))
    cap_w = (spec.tdp_w.value if limit_w is None else limit_w) * mean_of(near, "cap_fraction")
    coefficients = _coefficients(estimates)
    if not cap_w > coefficients.static_w:
        raise UserError(f"limit_w of {system} must be above {coefficients.static_w:.0f} W, got {limit_w}")
    return OperatorPower(
        system,
        method,
        coefficients,
        _part_log_sd(estimates),
        mean_of(near, "error_log_sd"),
        cap_w,
        one(world, "clock_exponent").value,
    )


def _coefficients(estimates: Mapping[Name, Estimate]) -> Coefficients:
    flop = {dtype: found.value * PJ for (name, dtype), found in estimates.items() if name == "pj_per_flop"}
    return Coefficients(
        estimates["static_w", ""].value,
        {**NO_BUSY, **{_family(name): found.value for (name, _), found in estimates.items() if _is_busy(name)}},
        flop,
        estimates["pj_per_byte", ""].value * PJ,
        estimates["pj_per_link_byte", ""].value * PJ,
    )


def _part_log_sd(estimates: Mapping[Name, Estimate]) -> dict[str, float]:
    """Spread by the names of `model.parts_w`."""
    named = {"static_w": "static", "pj_per_byte": "bytes", "pj_per_link_byte": "link"}
    spreads = {}
    for (name, dtype), found in estimates.items():
        if name == "pj_per_flop":
            spreads[f"flop {dtype}"] = found.log_sd
        elif _is_busy(name):
            spreads[f"busy {_family(name)}"] = found.log_sd
        elif name in named:
            spreads[named[name]] = found.log_sd
    return spreads


def _is_busy(name: str) -> bool:
    return name.startswith("busy_")


def _family(name: str) -> str:
    return name.removeprefix("busy_").removesuffix("_w")
