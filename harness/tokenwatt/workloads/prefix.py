"""Table `[prefix]`: text that many prompts begin with, such as a system prompt."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from tokenwatt.spec import Spec
from tokenwatt.workloads.lengths import Length
from tokenwatt.workloads.streams import Purpose, stream, tokens


class Prefix(Spec):
    """Text in front of the prompts of a group, the same for all of them. It is added to `[input]`."""

    tokens: Length
    """Length of a prefix, drawn once for each group."""
    groups: int = Field(default=1, gt=0, le=2**20)
    """How many different prefixes there are; a conversation has each of them with the same probability."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the conversations that have a prefix."""

    def group(self, seed: int, place: int) -> int | None:
        """Which prefix conversation `place` has; None for none."""
        rng = stream(seed, place, of=Purpose.PREFIX_CHOICE)
        has_one = rng.random() < self.share
        return int(rng.integers(self.groups)) if has_one else None

    def text(self, seed: int, group: int, vocabulary: int) -> np.ndarray:
        """Token ids of a group's prefix, int32 [n]."""
        rng = stream(seed, group, of=Purpose.PREFIX_TOKENS)
        return tokens(rng, vocabulary, self.tokens.draw(rng))
