"""Random numbers that their key alone decides: no state, so the same ones in any batch, order and process."""

from __future__ import annotations

from torch import Tensor


def exponential(bits: Tensor) -> Tensor:
    """fp32, exponentially distributed with mean 1, of random int64: -log1p(-u), u of the lower 63 bits.

    All are > 0 and at most 16.7. Small ones, which win a race, have the finest steps: 2^-24 of their size.
    """
    uniform = (bits & (2**63 - 1)).float() * 2.0**-63
    return -(-uniform.clamp(2.0**-64, 1 - 2.0**-24)).log1p()


def random_bits(state: Tensor, number: Tensor | int) -> Tensor:
    """int64: output `number`, from 0, of the generator SplitMix64 at `state` (Steele, Lea, Flood, OOPSLA 2014).

    state, number: int64, of shapes that broadcast. Sums and products wrap.
    """
    z = state + (number + 1) * _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shifted right, with zeros moving in: torch moves the sign in."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _signed(word: int) -> int:
    """The int64 with the bits of a 64-bit word that begins with 1."""
    return word - 2**64
