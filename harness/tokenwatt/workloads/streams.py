"""Random streams: what is drawn for one purpose is not moved by what is drawn for another."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for. Published hashes hang on these numbers: none may change, or be used again."""

    SAMPLING = 1
    ARRIVALS = 2
    """Of `load.arrivals`, which has its own seed."""
    LATER_TURN = 3
    TURN_COUNT = 4
    PREFIX_CHOICE = 5
    PREFIX_TOKENS = 6
    SALT = 7
    BLOCK = 8
    STAND_IN = 9


def stream(*key: int, of: Purpose | None = None) -> np.random.Generator:
    """The stream of these numbers (seed first, each from 0) for a purpose; None: lengths and tokens of a first turn."""
    return np.random.Generator(np.random.PCG64(_seeds(key, of)))


def draw_seed(seed: int, index: int) -> int:
    """Seed of the draws of request `index`: 63 bits of a stream beside the one of lengths and tokens."""
    return int(_seeds((seed, index), Purpose.SAMPLING).generate_state(1, np.uint64)[0] >> 1)


def tokens(rng: np.random.Generator, vocabulary: int, count: int) -> np.ndarray:
    """Token ids drawn evenly below `vocabulary`, int32 [count]."""
    return rng.integers(0, vocabulary, size=count, dtype=np.int32)


def _seeds(key: tuple[int, ...], of: Purpose | None) -> np.random.SeedSequence:
    return np.random.SeedSequence(key, spawn_key=() if of is None else (int(of),))
