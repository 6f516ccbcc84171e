"""The work that a problem cannot avoid: floating-point operations, and bytes to and from memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """flop: multiplications and additions, counted separately.

    bytes: every input element that the answer depends on read once, and every output element written once.
    """

    flop: int
    bytes: int
