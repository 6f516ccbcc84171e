"""How regularly a counter is renewed, because a phase says little of renewals that stray or walk from even places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenwatt.power.series import Series

SHARES = (0.0, *(0.32 / 2**halvings for halvings in range(6, -1, -1)))
"""Standard deviations that are tried, as shares of the period: none, and 0.5 to 32 %."""
MOST_TICKS = 150
"""More say no more, and cost their cube."""


@dataclass(frozen=True, slots=True)
class Renewals:
    """What the moments of a counter's ticks say of it."""

    period_s: float
    """Mean spacing."""
    jitter_s: float
    """Standard deviation of each tick around its place, which leaves the later ones where they are."""
    walk_s: float
    """Standard deviation of each spacing around the period, which moves all later ticks too."""


def renewals(tick_s: Series, width_s: Series) -> Renewals:
    """Period of ticks, and how they leave it: means over all sizes of both, weighted by how they explain the ticks.

    Ticks are start + number * period + their own error + a walk's; the likelihood of both errors is that of what start
    and period cannot explain (restricted maximum likelihood).

    Args:
        tick_s: at least three, increasing; each in the middle of the stretch in which it fell.
        width_s: how long that stretch was. One of over half a period may have hidden other ticks.

    >>> found = renewals(np.array([0.0, 0.1, 0.2, 0.4, 0.5]), np.array([1e-3, 1e-3, 1e-3, 0.1, 1e-3]))
    >>> round(found.period_s, 3)
    0.1
    """
    tick_s, width_s = tick_s[:MOST_TICKS], width_s[:MOST_TICKS]
    spacing_s = float(np.median(np.diff(tick_s)))
    hidden = np.where(width_s[1:] > spacing_s / 2, np.maximum(np.rint(np.diff(tick_s) / spacing_s), 1.0), 1.0)
    number = np.concatenate(([0.0], np.cumsum(hidden)))
    pairs = [(jitter, walk) for jitter in SHARES for walk in SHARES]
    tried = [_log_likelihood(number, tick_s, width_s, jitter * spacing_s, walk * spacing_s) for jitter, walk in pairs]
    weight = np.exp(np.array(tried) - max(tried))
    jitter_s, walk_s = spacing_s * np.sqrt(weight @ np.array(pairs) ** 2 / weight.sum())
    return Renewals(float(np.polyfit(number, tick_s, 1)[0]), float(jitter_s), float(walk_s))


def _log_likelihood(number: Series, tick_s: Series, width_s: Series, jitter_s: float, walk_s: float) -> float:
    """Logarithm of the restricted likelihood of two standard deviations."""
    covariance = np.diag(width_s**2 / 12 + jitter_s**2) + walk_s**2 * np.minimum(number[:, None], number)
    root = np.linalg.cholesky(covariance)
    line = np.column_stack([np.ones_like(number), number, tick_s - tick_s[0]])
    whitened = np.linalg.solve(root, line)
    terms, wanted = whitened[:, :2], whitened[:, 2]
    information = terms.T @ terms
    misfit = wanted - terms @ np.linalg.solve(information, terms.T @ wanted)
    determinant = 2 * np.log(np.diag(root)).sum() + np.linalg.slogdet(information)[1]
    return float(-(misfit @ misfit + determinant) / 2)
