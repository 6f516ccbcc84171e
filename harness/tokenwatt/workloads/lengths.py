"""How long things are: distributions of tokens and of turns, drawn one at a time."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from tokenwatt.spec import Spec

TokenCount = Annotated[int, Field(gt=0, le=2**24)]
TurnCount = Annotated[int, Field(gt=0, le=1024)]


class FixedLength(Spec):
    """Every request has this length."""

    kind: Literal["fixed"] = "fixed"
    """Distribution."""
    tokens: TokenCount
    """Length in tokens."""

    @property
    def longest(self) -> int:
        """Most tokens that a draw can give."""
        return self.tokens

    def draw(self, rng: np.random.Generator) -> int:
        """Length of one request in tokens."""
        del rng
        return self.tokens


class LognormalLength(Spec):
    """Lengths with a long tail: lognormal by its median and sigma, rounded, then clipped to [min, max]."""

    kind: Literal["lognormal"]
    """Distribution."""
    median: TokenCount
    """Median in tokens, before clipping."""
    sigma: Annotated[float, Field(gt=0, le=3)]
    """Standard deviation of the logarithm."""
    min: TokenCount = 1
    """Shortest length in tokens."""
    max: TokenCount
    """Longest length in tokens."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.median <= self.max:
            raise ValueError(f"needs min <= median <= max, got {self.min}, {self.median}, {self.max}")
        return self

    @property
    def longest(self) -> int:
        """Most tokens that a draw can give."""
        return self.max

    def draw(self, rng: np.random.Generator) -> int:
        """Length of one request in tokens."""
        return int(np.clip(np.rint(rng.lognormal(np.log(self.median), self.sigma)), self.min, self.max))


Length = Annotated[FixedLength | LognormalLength, Field(discriminator="kind")]


class FixedCount(Spec):
    """Every conversation has so many turns."""

    kind: Literal["fixed"] = "fixed"
    """Distribution."""
    turns: TurnCount
    """Turns of a conversation."""

    @property
    def most(self) -> int:
        """Most turns that a draw can give."""
        return self.turns

    def draw(self, rng: np.random.Generator) -> int:
        """Turns of one conversation."""
        del rng
        return self.turns


class GeometricCount(Spec):
    """Each turn is followed by another with the same probability, up to `max`."""

    kind: Literal["geometric"]
    """Distribution."""
    mean: Annotated[float, Field(gt=1, le=1024)]
    """Mean number of turns, before clipping."""
    max: TurnCount
    """Most turns of a conversation."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.mean > self.max:
            raise ValueError(f"needs mean <= max, got {self.mean}, {self.max}")
        return self

    @property
    def most(self) -> int:
        """Most turns that a draw can give."""
        return self.max

    def draw(self, rng: np.random.Generator) -> int:
        """Turns of one conversation."""
        return min(int(rng.geometric(1 / self.mean)), self.max)


Count = Annotated[FixedCount | GeometricCount, Field(discriminator="kind")]
