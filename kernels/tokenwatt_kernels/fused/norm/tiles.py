"""Tile sizes of RMS normalisation: rows per program, and warps that share them.

A program holds its rows in registers, because the sum of squares is needed before the first output. Sixteen elements
per thread are two loads of 16 bytes in 16-bit types and four in fp32: enough under way to keep memory busy, and few
enough registers for three quarters of the threads that a multiprocessor has. The longest rows take twice as many of 16
warps, because of programs of 32 warps a multiprocessor holds one, and nothing is under way while it sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.fused.norm.problems import NormProblem
from tokenwatt_kernels.targets import REGISTERS_PER_SM, target_for

FAMILY = "fused.norm"
MAX_WIDTH = 16_384
"""The longest row that a program holds."""
ELEMENTS_PER_THREAD = 16
FEWEST_WARPS, MOST_WARPS = 4, 16
MOST_ELEMENTS_PER_THREAD = 32
WARP_THREADS = 32
FP32_BYTES = 4


@dataclass(frozen=True, slots=True)
class NormTile:
    """rows: of one program, a power of two."""

    rows: int
    num_warps: int

    @property
    def name(self) -> str:
        """Such as r2 w4."""
        return f"r{self.rows} w{self.num_warps}"


@dataclass(frozen=True, slots=True)
class NormKey:
    """What a tile depends on besides the GPU.

    block_width: the width of a row, rounded up to a power of two.
    """

    block_width: int
    element_bytes: int


KEY = NormKey
KERNELS: dict[str, type[NormTile]] = {"triton": NormTile}

# One that takes a row after the other, and one whose last program has rows that are not there.
INTERPRETER_TILES = (NormTile(1, 4), NormTile(4, 4))


def block_width(width: int) -> int:
    """The width that a program holds for rows of `width`: the next power of two.

    >>> [block_width(width) for width in (1, 128, 129, 5120)]
    [1, 128, 256, 8192]
    """
    return 1 << (width - 1).bit_length()


def make_key(width: int, element_bytes: int) -> NormKey:
    """The key of rows of `width`."""
    return NormKey(block_width(width), element_bytes)


def key_of(problem: NormProblem, dtype_name: str) -> NormKey:
    """The key of a problem."""
    return make_key(problem.width, DTYPES[dtype_name].bytes)


def default(key: NormKey, capability: int) -> NormTile:
    """The tile for a key where none has been measured; the same on every GPU."""
    target_for(capability)
    warps = min(max(key.block_width // (WARP_THREADS * ELEMENTS_PER_THREAD), FEWEST_WARPS), MOST_WARPS)
    return NormTile(max(warps * WARP_THREADS * ELEMENTS_PER_THREAD // key.block_width, 1), warps)


def is_valid(tile: NormTile, key: NormKey) -> bool:
    """Whether a program can hold its rows: powers of two, and no more per thread than registers have room for."""
    return (
        all(side >= 1 and side & (side - 1) == 0 for side in (tile.rows, tile.num_warps))
        and tile.num_warps <= 32
        and _elements_per_thread(tile, key) <= MOST_ELEMENTS_PER_THREAD
        and key.block_width <= MAX_WIDTH
    )


def is_valid_on(tile: NormTile, key: NormKey, capability: int) -> bool:
    """Whether the kernel compiles with this tile for a GPU of `capability`."""
    target_for(capability)
    return is_valid(tile, key)


def most_registers(tile: NormTile, key: NormKey) -> int | None:
    """What the compiler may give a thread; None leaves it to the compiler.

    In fp32 it would spill a value or two to stay at 64 registers.
    """
    if key.element_bytes < FP32_BYTES:
        return None
    wanted = 128 if _elements_per_thread(tile, key) > ELEMENTS_PER_THREAD else 96
    return min(wanted, REGISTERS_PER_SM // (WARP_THREADS * tile.num_warps))


def candidates(key: NormKey, capability: int) -> tuple[NormTile, ...]:
    """The tiles worth measuring, the default first: 4 to 32 elements in each thread."""
    first = default(key, capability)
    sizes = product((1, 2, 4, 8, 16, 32), (1, 2, 4, 8, 16, 32))
    worth = [tile for tile in (NormTile(*size) for size in sizes) if _is_worth_a_try(tile, key)]
    return tuple(dict.fromkeys([first, *worth]))


def _is_worth_a_try(tile: NormTile, key: NormKey) -> bool:
    return is_valid(tile, key) and _elements_per_thread(tile, key) >= 4


def _elements_per_thread(tile: NormTile, key: NormKey) -> float:
    return tile.rows * key.block_width / (WARP_THREADS * tile.num_warps)
