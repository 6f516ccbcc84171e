"""How routing is cut into programs: one predicate, one choice by the number of experts, and what is worth measuring."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from tokenwatt_kernels.moe.route.problems import RouteProblem

FAMILY = "moe.route"
LEAST_BLOCK_E = 16
ELEMENTS_PER_WARP = 512
"""Scores of a warp at a time: 16 of each thread, which become 64-bit keys."""
MOST_ELEMENTS_PER_THREAD = 32
MOST_BLOCK_T = 64


@dataclass(frozen=True, slots=True)
class RouteTile:
    """block_t tokens at a time in num_warps warps.

    alone_tokens: up to here one program does everything in one launch; beyond it three launches share the work.
    most_programs: of the first of these, so that the counts that the second scans stay few.
    """

    block_t: int
    num_warps: int
    alone_tokens: int
    most_programs: int

    @property
    def name(self) -> str:
        """Such as t16 w4 alone64 p256."""
        return f"t{self.block_t} w{self.num_warps} alone{self.alone_tokens} p{self.most_programs}"


@dataclass(frozen=True, slots=True)
class RouteKey:
    """What a tile depends on besides the GPU: experts, rounded up to a power of two."""

    experts: int


KEY = RouteKey
KERNELS: dict[str, type[RouteTile]] = {"triton": RouteTile}

# The gate's tiny problems are cut within a program, among programs, and not at all.
INTERPRETER_TILES = (RouteTile(4, 4, 8, 3), RouteTile(16, 4, 64, 2))


def block_e(experts: int) -> int:
    """Columns of a tile: the next power of two."""
    return max(LEAST_BLOCK_E, 1 << (experts - 1).bit_length())


def make_key(experts: int) -> RouteKey:
    """The key for a number of experts."""
    return RouteKey(block_e(experts))


def key_of(problem: RouteProblem, dtype_name: str) -> RouteKey:
    """The key of a problem, in any dtype."""
    return make_key(problem.experts)


def default(key: RouteKey, capability: int) -> RouteTile:
    """The tile for a key where none has been measured, the same on every GPU."""
    block_t = max(4, min(MOST_BLOCK_T, 4 * ELEMENTS_PER_WARP // key.experts))
    return RouteTile(block_t, 4, alone_tokens=64, most_programs=256)


def is_valid_on(tile: RouteTile, key: RouteKey, capability: int) -> bool:
    """Whether the kernel compiles with this tile: powers of two, and scores and keys in registers."""
    return (
        tile.block_t >= 1
        and tile.block_t & (tile.block_t - 1) == 0
        and tile.num_warps in (1, 2, 4, 8)
        and tile.block_t * key.experts <= MOST_ELEMENTS_PER_THREAD * 32 * tile.num_warps
        and tile.alone_tokens >= 0
        and tile.most_programs >= 2
    )


def candidates(key: RouteKey, capability: int) -> tuple[RouteTile, ...]:
    """The tiles worth measuring, the default first."""
    sizes = product((4, 8, 16, 32, 64), (4, 8), (16, 64, 256), (128, 512))
    tiles = [RouteTile(*size) for size in sizes]
    worth = [tile for tile in tiles if is_valid_on(tile, key, capability) and tile.block_t >= tile.num_warps]
    return tuple(dict.fromkeys([default(key, capability), *worth]))
