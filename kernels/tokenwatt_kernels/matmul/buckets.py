"""Sizes that share a tile: powers of two, so that a table of some shapes serves others like them. Plain Python."""

from __future__ import annotations

COLUMNS = (1024, 65_536)
TERMS = (1024, 32_768)
"""Least and most buckets of N and K."""


def bucket(size: int, least: int, most: int) -> int:
    """The least power of two from `least` that is not below `size`; `most` stands for everything beyond it.

    >>> [bucket(size, 16, 64) for size in (0, 16, 17, 1000)]
    [16, 16, 32, 64]
    """
    return min(max(least, 1 << max(size - 1, 0).bit_length()), most)
