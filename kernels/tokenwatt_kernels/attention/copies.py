"""How many keys that follow each other the hardware can copy as one tile."""

from __future__ import annotations

from collections.abc import Callable

LENGTHS = (128, 64, 32)


def copied_keys(is_allowed: Callable[[int], bool]) -> int:
    """The most keys of LENGTHS for which is_allowed holds: then it holds for any smaller power of two too. 0 for none.

    >>> [copied_keys(lambda keys: page_size % keys == 0) for page_size in (16, 32, 192, 256)]
    [0, 32, 64, 128]
    """
    return next((keys for keys in LENGTHS if is_allowed(keys)), 0)
