"""Tile sizes of dense matmul: what a tile depends on, one predicate, one choice, and what is worth measuring."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.dense.problems import MatmulProblem
from tokenwatt_kernels.targets import target_for

FAMILY = "matmul.dense"
MANY_ROWS = 0
"""Stands in a key for every number of rows beyond the bounded ones."""


@dataclass(frozen=True, slots=True)
class MatmulTile:
    """block_m x block_n outputs per program, block_k of the sum per step.

    group_m: row tiles that run next to each other, so that they find the same weight tile in L2.
    """

    block_m: int
    block_n: int
    block_k: int
    group_m: int
    num_warps: int
    num_stages: int

    @property
    def name(self) -> str:
        """Such as 128x128x64 g8 w8 s4."""
        sides = f"{self.block_m}x{self.block_n}x{self.block_k}"
        return f"{sides} g{self.group_m} w{self.num_warps} s{self.num_stages}"


@dataclass(frozen=True, slots=True)
class MatmulKey:
    """What a tile depends on besides the GPU.

    rows: the most rows M that take the tile, or MANY_ROWS.
    """

    rows: int
    element_bytes: int


KEY = MatmulKey
KERNELS: dict[str, type[MatmulTile]] = {"triton": MatmulTile}


# Small enough that the gate's tiny problems cross several tiles in every direction.
INTERPRETER_TILES = (MatmulTile(16, 32, 32, 4, 4, 1), MatmulTile(32, 16, 64, 8, 4, 1))

# (rows up to, tiles in order of preference); None is "any number of rows".
_HALF_PRECISION: tuple[tuple[int | None, tuple[MatmulTile, ...]], ...] = (
    (16, (MatmulTile(16, 64, 64, 1, 4, 4),)),
    (32, (MatmulTile(32, 64, 64, 1, 4, 4),)),
    (64, (MatmulTile(64, 64, 64, 1, 4, 4),)),
    (None, (MatmulTile(128, 128, 64, 8, 8, 4), MatmulTile(128, 128, 64, 8, 8, 3))),
)
# fp32 has no tensor-core path here ("ieee" precision).
_FULL_PRECISION: tuple[tuple[int | None, tuple[MatmulTile, ...]], ...] = (
    (16, (MatmulTile(16, 64, 32, 1, 4, 2),)),
    (None, (MatmulTile(64, 64, 16, 8, 8, 2),)),
)


def shared_bytes(tile: MatmulTile, element_bytes: int) -> int:
    """Shared memory of one program: one tile of a and one of the weight for every stage."""
    return (tile.block_m + tile.block_n) * tile.block_k * tile.num_stages * element_bytes


def is_valid(tile: MatmulTile, element_bytes: int, shared_limit_bytes: int) -> bool:
    """Whether the kernel can be compiled with this tile: powers of two, tl.dot's minimum of 16, and shared memory."""
    sides = (tile.block_m, tile.block_n, tile.block_k)
    return (
        all(side >= 16 and side & (side - 1) == 0 for side in sides)
        and tile.group_m >= 1
        and tile.num_warps in (1, 2, 4, 8)
        and tile.num_stages >= 1
        and shared_bytes(tile, element_bytes) <= shared_limit_bytes
    )


def choose(rows: int, element_bytes: int, capability: int) -> MatmulTile:
    """The tile for M = `rows` and an element size on a GPU of `capability` (90 for sm_90)."""
    limit = target_for(capability).shared_limit_bytes
    for max_rows, candidates in _FULL_PRECISION if element_bytes == 4 else _HALF_PRECISION:
        if max_rows is not None and rows > max_rows:
            continue
        for tile in candidates:
            if is_valid(tile, element_bytes, limit):
                return tile
    raise ValueError(f"no matmul tile fits rows={rows}, element_bytes={element_bytes} in {limit} bytes")


def make_key(rows: int, element_bytes: int) -> MatmulKey:
    """The key for M = `rows`: rows that `choose` gives the same tile share it."""
    bounds = _FULL_PRECISION if element_bytes == 4 else _HALF_PRECISION
    return MatmulKey(
        next((bound for bound, _ in bounds if bound is not None and rows <= bound), MANY_ROWS), element_bytes
    )


def key_of(problem: MatmulProblem, dtype_name: str) -> MatmulKey:
    """The key of a problem."""
    return make_key(problem.m, DTYPES[dtype_name].bytes)


def default(key: MatmulKey, capability: int) -> MatmulTile:
    """The tile for a key where none has been measured."""
    return choose(key.rows or 2**31, key.element_bytes, capability)


def is_valid_on(tile: MatmulTile, key: MatmulKey, capability: int) -> bool:
    """Whether the kernel compiles with this tile for a GPU of `capability`."""
    return is_valid(tile, key.element_bytes, target_for(capability).shared_limit_bytes)


def candidates(key: MatmulKey, capability: int) -> tuple[MatmulTile, ...]:
    """The tiles worth measuring, the default first. Few rows stream the weight; many keep the multipliers busy."""
    first = default(key, capability)
    if key.element_bytes == 4:
        sizes = product((first.block_m,), (32, 64, 128), (16, 32), (first.group_m,), (4, 8), (2, 3))
    elif key.rows == MANY_ROWS:
        sizes = product((64, 128, 256), (64, 128, 256), (32, 64), (8,), (4, 8), (3, 4))
    else:
        sizes = product((first.block_m,), (32, 64, 128), (64, 128, 256), (1,), (4, 8), (3, 4, 5))
    tiles = [MatmulTile(*size) for size in sizes]
    worth = [tile for tile in tiles if is_valid_on(tile, key, capability) and _is_balanced(tile)]
    return tuple(dict.fromkeys([first, *worth]))


def _is_balanced(tile: MatmulTile) -> bool:
    """Whether a thread has some fp32 accumulators, and registers left for the rest."""
    return 4 <= tile.block_m * tile.block_n // (32 * tile.num_warps) <= 128
