"""An offline run that ends: how many of its requests are in flight on average, and in how many steps prompts come in.

All are queued at the start and equally long, and at most `most` are in flight. A step has room for `budget` tokens:
one for each sequence that decodes, the rest for prompts. So the first requests come in at

    d in_flight / d step = (budget - in_flight) / isl        in_flight(s) = budget x (1 - exp(-s / isl))

and each lives for `life` steps: osl, where a step yields one token. As they leave, the next ones take their places, in
truth a little later, which spreads later rounds out. A run of `waves` full rounds and a last one of `rest` requests has

    steps = life x (waves + 1) + comes_in(rest)              comes_in(n) = -isl x ln(1 - n / budget)
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flight:
    """The steps of a run, on average."""

    mean: float
    """Requests in flight."""
    taking_in: float
    """Share of the steps that hold prompts."""


def in_flight(requests: float, most: float, isl: float, life: float, budget: float) -> Flight:
    """Of a run of `requests` with prompts of `isl` tokens that decode for `life` steps; `most` of them fit at once.

    `most` is met where a step of `budget` tokens has room for it and for the prompts that replace what leaves.

    >>> in_flight(1e6, 64, 1000, 1000, 1e9).mean
    64.0
    """
    most = min(most, requests, max(budget * life / (isl + life), 1.0))
    waves = math.ceil(requests / most) - 1
    rest = requests - waves * most

    def comes_in(number: float) -> float:
        return -isl * math.log1p(-min(number / budget, life / (isl + life)))

    steps = life * (waves + 1) + comes_in(rest)
    return Flight(requests * life / steps, (waves * comes_in(most) + comes_in(rest)) / steps)
