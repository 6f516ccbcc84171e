"""Tile sizes of rotary embedding: elements per program, which are some heads of a token, and warps that share them.

Sixteen elements per thread are a load of 16 bytes for each half of a head. Programs of two warps are many enough for
their loads of positions, then angles, to overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.fused.rope.problems import RopeProblem
from tokenwatt_kernels.targets import target_for

FAMILY = "fused.rope"
WARP_THREADS = 32
DEFAULT_WARPS = 2
ELEMENTS_PER_THREAD = 16
MOST_ELEMENTS_PER_THREAD = 32


@dataclass(frozen=True, slots=True)
class RopeTile:
    """elements: of the heads of one program, a power of two."""

    elements: int
    num_warps: int

    @property
    def name(self) -> str:
        """Such as e1024 w2."""
        return f"e{self.elements} w{self.num_warps}"

    def heads_of(self, dim: int, heads: int) -> int:
        """How many of `heads` of `dim` elements a program takes: a power of two."""
        return min(max(self.elements // block(dim), 1), block(heads))


@dataclass(frozen=True, slots=True)
class RopeKey:
    """What a tile depends on besides the GPU.

    block_dim: the elements of a query head, rounded up to a power of two.
    """

    block_dim: int
    element_bytes: int


KEY = RopeKey
KERNELS: dict[str, type[RopeTile]] = {"triton": RopeTile}

# Groups of heads that are whole, cut off, and longer than all heads.
INTERPRETER_TILES = (RopeTile(32, 2), RopeTile(256, 4))


def block(size: int) -> int:
    """The next power of two.

    >>> [block(size) for size in (1, 48, 64, 65)]
    [1, 64, 64, 128]
    """
    return 1 << (size - 1).bit_length()


def make_key(head_dim: int, element_bytes: int) -> RopeKey:
    """The key of query heads of head_dim."""
    return RopeKey(block(head_dim), element_bytes)


def key_of(problem: RopeProblem, dtype_name: str) -> RopeKey:
    """The key of a problem."""
    return make_key(problem.head_dim, DTYPES[dtype_name].bytes)


def default(key: RopeKey, capability: int) -> RopeTile:
    """The tile for a key where none has been measured; the same on every GPU."""
    target_for(capability)
    return RopeTile(max(DEFAULT_WARPS * WARP_THREADS * ELEMENTS_PER_THREAD, key.block_dim), DEFAULT_WARPS)


def is_valid(tile: RopeTile, key: RopeKey) -> bool:
    """Whether a program can hold its heads: powers of two, and no more per thread than registers have room for."""
    return (
        all(side >= 1 and side & (side - 1) == 0 for side in (tile.elements, tile.num_warps))
        and tile.num_warps <= 8
        and tile.elements >= key.block_dim
        and tile.elements <= MOST_ELEMENTS_PER_THREAD * WARP_THREADS * tile.num_warps
    )


def is_valid_on(tile: RopeTile, key: RopeKey, capability: int) -> bool:
    """Whether the kernel compiles with this tile for a GPU of `capability`."""
    target_for(capability)
    return is_valid(tile, key)


def candidates(key: RopeKey, capability: int) -> tuple[RopeTile, ...]:
    """The tiles worth measuring, the default first: 4 to 32 elements in each thread."""
    sizes = product((4, 8, 16, 32), (1, 2, 4, 8))
    tiles = [RopeTile(elements * WARP_THREADS * warps, warps) for elements, warps in sizes]
    return tuple(dict.fromkeys([default(key, capability), *(tile for tile in tiles if is_valid(tile, key))]))
