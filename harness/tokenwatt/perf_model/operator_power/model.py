"""Board power of work at a rate. Pure arithmetic.

    demand = static + sum over families of busy_family * share of time
             + sum over dtypes of pJ/FLOP * FLOP/s + pJ/byte * memory bytes/s + pJ/byte * link bytes/s
    power  = min(cap, demand)

`static` is what a board draws whose clocks are up and which does nothing much; its leakage and its fans are inside.
`busy` is what a family of kernels draws beside its FLOP and bytes while it runs: instructions, address arithmetic,
shared memory, padding. That of a plain matmul is 0 by definition: it lies in `static` and in pJ/FLOP.

A board at its cap lowers its clocks, and with them its voltage: what is not static goes with clock ** exponent, so
demand comes down to the cap when clock-bound work takes

    slowdown = ((demand - static) / (cap - static)) ** (1 / exponent)

times as long. Work that waits for memory is slowed less; that is for the caller to judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenwatt.errors import UserError
from tokenwatt.perf_model.operator_power.work import FAMILIES

PJ = 1e-12
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Parameters of one board; energies in J, powers in W."""

    static_w: float
    busy_w: Mapping[str, float]
    """By family."""
    j_per_flop: Mapping[str, float]
    """By dtype."""
    j_per_byte: float
    j_per_link_byte: float = 0.0


def parts_w(
    coefficients: Coefficients,
    flop_per_s: Mapping[str, ArrayLike],
    bytes_per_s: ArrayLike,
    busy: Mapping[str, ArrayLike] | None = None,
    link_bytes_per_s: ArrayLike = 0.0,
) -> dict[str, Array]:
    """Power that work at a rate asks for, W, part by part; arrays of one shape, or that broadcast to one.

    `busy` gives for each family the share of time, 0 to 1, in which its kernels run.

    Raises:
        UserError: a dtype or family that has no coefficient.
    """
    parts = {"static": np.asarray(coefficients.static_w, float)}
    for family, share in (busy or {}).items():
        parts[f"busy {family}"] = _known(coefficients.busy_w, family, "family") * np.asarray(share, float)
    for dtype, rate in flop_per_s.items():
        parts[f"flop {dtype}"] = _known(coefficients.j_per_flop, dtype, "dtype") * np.asarray(rate, float)
    parts["bytes"] = coefficients.j_per_byte * np.asarray(bytes_per_s, float)
    parts["link"] = coefficients.j_per_link_byte * np.asarray(link_bytes_per_s, float)
    return parts


def _known(table: Mapping[str, float], name: str, kind: str) -> float:
    if name not in table:
        raise UserError(f"no power is known for {kind} {name!r}; known: {', '.join(table)}")
    return table[name]


def slowdown(demand_w: ArrayLike, cap_w: float, static_w: float, exponent: float) -> Array:
    """How much longer clock-bound work takes at the cap; 1 below it."""
    moving = np.asarray(demand_w, float) - static_w
    return np.maximum(moving / (cap_w - static_w), 1.0) ** (1 / exponent)


def soft_minimum(demand_w: ArrayLike, cap_w: float, width: float) -> Array:
    """`min(demand, cap)` with a rounded corner of `width * cap`, for a fit that needs a slope beyond the cap."""
    corner = width * cap_w
    return -corner * np.logaddexp(-np.asarray(demand_w, float) / corner, -cap_w / corner)


NO_BUSY = dict.fromkeys(FAMILIES, 0.0)
"""Nothing beside FLOP and bytes."""
