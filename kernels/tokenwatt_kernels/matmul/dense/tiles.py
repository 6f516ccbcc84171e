"""Tile sizes of the matmul kernel: one valid choice per row count, element size and GPU generation."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwatt_kernels.targets import target_for


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
