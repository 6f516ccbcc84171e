"""What lands on the busiest rank of a mixture of experts: token copies, and experts that have any.

`balanced` spreads copies evenly. `uniform` is the expectation where every choice of experts is as likely as any other.
`power_law_A` draws the loads of experts from a density x^-A between 1 and 0.8 tokens (between 0.01 and 2 where there
are fewer copies than experts) by its quantiles, rounds them so that every copy has a place, and shuffles the experts
over the ranks; the busiest rank counts, its load the median of a few shuffles. Operator tables are measured that way.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenwatt.errors import UserError

_SHUFFLES = 8
_PREFIX = "power_law_"

Floats = NDArray[np.float64]


def rank_load(
    tokens: ArrayLike, experts: ArrayLike, top_k: ArrayLike, ep: ArrayLike, routing: str
) -> tuple[Floats, Floats]:
    """Copies of tokens on the busiest of `ep` ranks, and experts there that have one; both as long as the inputs.

    Args:
        tokens: of all ranks together; may be fractional on average.
        experts: routed experts of the layer, all ranks together.
        top_k: experts of a token.
        ep: ranks that share the experts.
        routing: balanced, uniform or power_law_A.

    Raises:
        UserError: another routing.
    """
    t, e, k, p = np.broadcast_arrays(*(np.asarray(each, dtype=np.float64) for each in (tokens, experts, top_k, ep)))
    if routing.startswith(_PREFIX):
        try:
            exponent = float(routing.removeprefix(_PREFIX))
        except ValueError:
            raise UserError(f"routing {routing!r} needs a number after {_PREFIX!r}") from None
        problems = np.stack([np.maximum(np.rint(t), 1), e, k, p], axis=-1).reshape(-1, 4)
        unique, where = np.unique(problems, axis=0, return_inverse=True)
        loads = np.array([_skewed(*map(int, row), exponent) for row in unique])[where.reshape(-1)]
        return loads[:, 0].reshape(t.shape), loads[:, 1].reshape(t.shape)
    copies = t * k / p
    if routing == "balanced":
        return copies, np.minimum(e / p, np.maximum(copies, 1.0))
    if routing == "uniform":
        return copies, e / p * -np.expm1(t * np.log1p(-np.minimum(k / e, 1 - 1e-12)))
    raise UserError(f"unknown routing {routing!r}; known: balanced, uniform, {_PREFIX}A")


@lru_cache(maxsize=65536)
def _skewed(tokens: int, experts: int, top_k: int, ep: int, exponent: float) -> tuple[float, float]:
    """Copies and touched experts of the busiest rank, one problem."""
    loads = _whole_loads(tokens, experts, top_k, exponent)
    local = max(experts // ep, 1)
    order = np.random.default_rng(experts)
    busiest = []
    for _ in range(_SHUFFLES if ep > 1 else 1):
        ranks = order.permutation(loads)[: local * ep].reshape(-1, local)
        busiest.append(ranks[ranks.sum(axis=1).argmax()])
    copies = float(np.median([rank.sum() for rank in busiest]))
    touched = float(np.median([np.count_nonzero(rank) for rank in busiest]))
    return max(copies, 1.0), max(touched, 1.0)


def _whole_loads(tokens: int, experts: int, top_k: int, exponent: float) -> Floats:
    """Copies of each expert, whole numbers that add up to tokens * top_k; shape (experts,), ascending quantiles."""
    total = tokens * top_k
    low, high = (1.0, max(0.8 * tokens, 1.0 + 1e-9)) if total > experts else (0.01, 2.0)
    share = (np.arange(experts) + 0.5) / experts
    power = 1.0 - exponent
    if abs(power) < 1e-9:
        draws = low * (high / low) ** share
    else:
        draws = ((high**power - low**power) * share + low**power) ** (1.0 / power)
    loads = np.rint(draws / draws.sum() * total)
    missing = int(total - loads.sum())
    # Rounding is made good at the most loaded experts first, one copy each, round after round.
    heaviest = np.argsort(-draws, kind="stable")
    loads += missing // experts if missing > 0 else 0
    loads[heaviest[: missing % experts if missing > 0 else 0]] += 1
    for rank in range(-missing):
        loads[heaviest[rank % experts]] -= 1
    return np.maximum(loads, 0.0)
