"""Few choices among many options, for what is too much to try in all combinations. Plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any


def every_pair(*options: Sequence[Any]) -> list[tuple[Any, ...]]:
    """One value of each option at a time, until every two values of different options have met. The last come first.

    >>> every_pair("ab", "xy", "01")
    [('b', 'y', '1'), ('b', 'x', '0'), ('a', 'y', '0'), ('a', 'x', '1')]
    """
    choices = list(product(*(range(len(values)) for values in options)))[::-1]
    pairs = {choice: set(combinations(enumerate(choice), 2)) for choice in choices}
    missing = set[tuple[tuple[int, int], tuple[int, int]]]().union(*pairs.values())
    found = []
    while missing:
        best = max(choices, key=lambda choice: len(pairs[choice] & missing))
        missing -= pairs[best]
        found.append(best)
    return [tuple(values[index] for values, index in zip(options, choice, strict=True)) for choice in found]
