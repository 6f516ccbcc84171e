"""What rows of one model on one engine have in common beyond the engine model, and how far it carries.

A cell is a model family as one group runs it on one system. Its mean residual r, log(measured / predicted time), is
taken as

    r = family of the group, on any system + group on any system of the generation + the cell's own + noise / rows

each a normal draw. What a case may expect of them is their posterior mean given all cells; its variance says how sure
that is: a model that was seen on the same engine and another GPU is known better than one that nobody ran.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from tokenwatt.perf_model.operator_time.trend import GENERATIONS

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row belongs."""

    group: str
    family: str
    system: str

    @property
    def generation(self) -> str:
        """Ancestor line of the system; a system outside of it is one of its own."""
        return GENERATIONS.get(self.system, self.system)


@dataclass(frozen=True, slots=True)
class Cell:
    """Rows of one place."""

    place: Place
    residual: float
    """Median of log(measured / predicted time)."""
    rows: int


@dataclass(frozen=True, slots=True)
class Spreads:
    """Standard deviations of log time."""

    family: float
    """Of a family in a group, the same on every system."""
    generation: float
    """Of a group on one generation."""
    cell: float
    """Of a cell beyond both."""
    row: float
    """Of a row within its cell."""


def covariance(places: Sequence[Place], others: Sequence[Place], spreads: Spreads) -> Floats:
    """Of what cells of two lists of places have in common; (places, others)."""

    def same(*names: str) -> Floats:
        mine, theirs = ([tuple(getattr(place, name) for name in names) for place in each] for each in (places, others))
        codes = {key: code for code, key in enumerate(dict.fromkeys([*mine, *theirs]))}
        rows = np.array([codes[key] for key in mine], dtype=np.int64)
        columns = np.array([codes[key] for key in theirs], dtype=np.int64)
        return (rows[:, None] == columns[None, :]).astype(np.float64)

    return (
        spreads.family**2 * same("group", "family")
        + spreads.generation**2 * same("group", "generation")
        + spreads.cell**2 * same("group", "family", "system")
    )


def expected(places: Sequence[Place], cells: Sequence[Cell], spreads: Spreads) -> tuple[Floats, Floats]:
    """Posterior mean and variance of the residual that each place has in common with its cell."""
    prior = spreads.family**2 + spreads.generation**2 + spreads.cell**2
    if not cells:
        return np.zeros(len(places)), np.full(len(places), prior)
    unique = list(dict.fromkeys(places))
    known = [cell.place for cell in cells]
    factor = cho_factor(covariance(known, known, spreads) + _noise(cells, spreads))
    cross = covariance(unique, known, spreads)
    mean = cross @ cho_solve(factor, np.array([cell.residual for cell in cells]))
    variance = prior - np.einsum("ij,ji->i", cross, cho_solve(factor, cross.T))
    where = {place: row for row, place in enumerate(unique)}
    rows = [where[place] for place in places]
    return mean[rows], np.maximum(variance, 0.0)[rows]


def fit_spreads(cells: Sequence[Cell], row: float) -> Spreads:
    """The spreads that make the cells' residuals most likely; row: spread of rows within a cell."""
    known, residuals = [cell.place for cell in cells], np.array([cell.residual for cell in cells])

    def unlikely(logs: Floats) -> float:
        family, generation, cell = map(float, np.exp(logs))
        spreads = Spreads(family, generation, cell, row)
        factor = cho_factor(covariance(known, known, spreads) + _noise(cells, spreads))
        log_determinant = 2 * np.log(np.diag(factor[0])).sum()
        # A weak pull to 0.1 keeps a spread that the cells say nothing of from running away.
        return float(residuals @ cho_solve(factor, residuals) + log_determinant + ((logs - math.log(0.1)) ** 2).sum())

    found = minimize(unlikely, np.full(3, math.log(0.1)), method="Nelder-Mead")
    family, generation, cell = map(float, np.exp(found.x))
    return Spreads(family, generation, cell, row)


def _noise(cells: Sequence[Cell], spreads: Spreads) -> Floats:
    return np.diag([spreads.row**2 / cell.rows for cell in cells])


def cells_of(places: Sequence[Place], residuals: Floats) -> list[Cell]:
    """Cells of rows; a residual that is not finite is no row."""
    grouped: dict[Place, list[float]] = {}
    for place, residual in zip(places, residuals, strict=True):
        if math.isfinite(residual):
            grouped.setdefault(place, []).append(float(residual))
    return [Cell(place, float(np.median(rows)), len(rows)) for place, rows in grouped.items()]


def spread_within(places: Sequence[Place], residuals: Floats) -> float:
    """Of rows around the median of their cell: half of what holds the middle 68 %."""
    cells = {cell.place: cell.residual for cell in cells_of(places, residuals)}
    offsets = [r - cells[place] for place, r in zip(places, residuals, strict=True) if math.isfinite(r)]
    low, high = np.quantile(offsets, [0.16, 0.84]) if offsets else (0.0, 0.0)
    return float(max((high - low) / 2, 0.01))
