"""Whether two engines computed the same model: the log-probabilities that they gave to the same tokens, compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenwatt.errors import EngineError


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the log-probabilities of an engine are from a reference's, over the same tokens."""

    tokens: int
    """Tokens that both gave a probability to."""
    mean_difference: float
    """Mean of |difference of log-probabilities| per token, nats; infinite where one of them is no finite number."""
    perplexity: float
    """Of the engine: exp(-mean log-probability)."""
    reference_perplexity: float
    """Of the reference."""
    reference_spread: float
    """Standard deviation of the reference's log-probabilities over the tokens, nats: near 0 it holds all of them alike,
    and so does nearly any other model."""

    @property
    def perplexity_ratio(self) -> float:
        """Of the two perplexities the larger over the smaller, so that 1 is the best."""
        low, high = sorted((self.perplexity, self.reference_perplexity))
        return high / low if low > 0 and math.isfinite(high) else math.inf

    def objections(self, max_mean_difference: float, max_perplexity_ratio: float) -> list[str]:
        """What exceeds its limit, in words; empty where the engines agree."""
        found = (
            ("mean difference", self.mean_difference, max_mean_difference, " nats"),
            ("perplexity ratio", self.perplexity_ratio, max_perplexity_ratio, ""),
        )
        # Asked the other way round, a figure that is no number would pass.
        return [f"{name} {value:.4g}{unit} > {most:g}" for name, value, most, unit in found if not value <= most]

    def __str__(self) -> str:
        return (
            f"mean difference {self.mean_difference:.4g} nats over {self.tokens} tokens, "
            f"perplexity {self.perplexity:.5g} against {self.reference_perplexity:.5g}"
        )


def compare(found: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> Agreement:
    """The agreement of natural-log probabilities, [isl - 1] for each of the same prompts.

    >>> compare([np.array([-1.0, -2.0])], [np.array([-1.5, -2.0])]).mean_difference
    0.25

    Raises:
        EngineError: an engine gave another number of them than there are tokens.
    """
    for place, (one, other) in enumerate(zip(found, reference, strict=True)):
        if one.shape != other.shape:
            raise EngineError(f"prompt {place}: {one.size} log-probabilities, and {other.size} of the reference")
    one, other = (np.concatenate(list(side)).astype(np.float64) for side in (found, reference))
    if not one.size:
        raise EngineError("no prompt has two tokens, so there is nothing to compare")
    is_finite = np.isfinite(one).all() and np.isfinite(other).all()
    return Agreement(
        tokens=one.size,
        mean_difference=float(np.abs(one - other).mean()) if is_finite else math.inf,
        perplexity=_perplexity(one),
        reference_perplexity=_perplexity(other),
        reference_spread=float(other.std()) if is_finite else math.inf,
    )


def _perplexity(logprobs: np.ndarray) -> float:
    """exp(-mean), infinite for a token that is held impossible, or where there is no number."""
    mean = -float(logprobs.mean())
    return math.exp(mean) if mean < math.log(np.finfo(np.float64).max) else math.inf
