"""Weights of 4 bits: their formats, and the sizes of their arrangement in memory. Plain Python."""

from __future__ import annotations

FORMATS = ("int4", "mxfp4")
"""int4: codes 0 to 15 with a scale and a zero point for each 128 terms. mxfp4: E2M1 with a power of two for each 32."""

CHUNK = 128
"""Columns of a weight that lie together: a group of int4, four groups of mxfp4."""
QUARTERS = 4
"""Columns of a chunk that share a word."""
WORDS = CHUNK // QUARTERS
"""Words of a row of a chunk."""
EXPONENT_SHIFT = 62
"""How much larger the exponent of an mxfp4 scale is in memory: 126, by which a code read as a bfloat16 is too small,
less the 64 that the sums make good."""
SUM_EXPONENT = 64


def chunks(terms: int) -> int:
    """Chunks of a row of K = `terms` columns."""
    return -(-terms // CHUNK)


def bytes_of(number_format: str, columns: int, terms: int) -> int:
    """What the format itself takes for a weight [N, K]: codes, and scales of 16 bits with zero points or of 8 bits."""
    codes = columns * terms // 2
    return codes + (columns * terms // 128 * 3 if number_format == "int4" else columns * terms // 32)
