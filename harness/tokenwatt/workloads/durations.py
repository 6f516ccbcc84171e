"""How long people think: distributions of the time between an answer and the next question."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from tokenwatt.spec import Spec

Seconds = Annotated[float, Field(ge=0, le=86400)]
PositiveSeconds = Annotated[float, Field(gt=0, le=86400)]


class FixedTime(Spec):
    """Always the same time."""

    kind: Literal["fixed"] = "fixed"
    """Distribution."""
    time_s: Seconds
    """Seconds."""

    def draw(self, rng: np.random.Generator) -> float:
        """One time in seconds."""
        del rng
        return self.time_s


class ExponentialTime(Spec):
    """Times without memory, clipped at `max_s`."""

    kind: Literal["exponential"]
    """Distribution."""
    mean_s: PositiveSeconds
    """Mean in seconds, before clipping."""
    max_s: PositiveSeconds = 86400.0
    """Longest time, seconds."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.mean_s > self.max_s:
            raise ValueError(f"needs mean_s <= max_s, got {self.mean_s}, {self.max_s}")
        return self

    def draw(self, rng: np.random.Generator) -> float:
        """One time in seconds."""
        return min(float(rng.exponential(self.mean_s)), self.max_s)


class LognormalTime(Spec):
    """Times with a long tail, clipped at `max_s`."""

    kind: Literal["lognormal"]
    """Distribution."""
    median_s: PositiveSeconds
    """Median in seconds, before clipping."""
    sigma: Annotated[float, Field(gt=0, le=3)]
    """Standard deviation of the logarithm."""
    max_s: PositiveSeconds = 86400.0
    """Longest time, seconds."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.median_s > self.max_s:
            raise ValueError(f"needs median_s <= max_s, got {self.median_s}, {self.max_s}")
        return self

    def draw(self, rng: np.random.Generator) -> float:
        """One time in seconds."""
        return min(float(rng.lognormal(np.log(self.median_s), self.sigma)), self.max_s)


ThinkTime = Annotated[FixedTime | ExponentialTime | LognormalTime, Field(discriminator="kind")]
