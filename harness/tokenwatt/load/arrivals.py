"""When somebody new comes: the instants at which conversations begin by themselves, in seconds since the load began."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

BLOCK = 1024
"""Gaps drawn at a time."""


@dataclass(slots=True)
class Arrivals:
    """An endless timetable of `rate_per_s` arrivals a second, whose gaps are gamma distributed.

    burstiness: shape of the gaps, so that their coefficient of variation is 1 / sqrt(burstiness): 1 is a Poisson
    process, below 1 they come in bursts, above 1 evenly, and infinity is a constant gap (vLLM's `--burstiness` has the
    same meaning). ramp_s: over so many seconds the rate rises in a straight line from 0.
    """

    rate_per_s: float
    burstiness: float = 1.0
    ramp_s: float = 0.0
    seed: int = 0
    _rng: np.random.Generator = field(init=False, repr=False)
    _even_s: float = field(default=0.0, init=False)
    """The instant of the last arrival if there were no ramp."""
    _gaps: list[float] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(2,)))

    def __iter__(self) -> Iterator[float]:
        return self

    def __next__(self) -> float:
        if not self._gaps:
            self._gaps = self._draw().tolist()[::-1]
        self._even_s += self._gaps.pop()
        return self._with_ramp(self._even_s)

    def _draw(self) -> np.ndarray:
        mean_s = 1.0 / self.rate_per_s
        if math.isinf(self.burstiness):
            return np.full(BLOCK, mean_s)
        return self._rng.gamma(self.burstiness, mean_s / self.burstiness, BLOCK)

    def _with_ramp(self, even_s: float) -> float:
        """The instant at which a rate that rises from 0 has brought as many as the full rate had by `even_s`.

        By t < ramp it has brought rate * t^2 / (2 * ramp), after it rate * (t - ramp / 2).
        """
        if even_s < self.ramp_s / 2:
            return math.sqrt(2 * self.ramp_s * even_s)
        return even_s + self.ramp_s / 2
