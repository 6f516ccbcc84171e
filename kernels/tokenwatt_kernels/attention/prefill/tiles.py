"""Tile sizes of the prefill kernel: one valid choice per head dimension, element size and GPU generation."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwatt_kernels.targets import target_for


@dataclass(frozen=True, slots=True)
class PrefillTile:
    """block_m query rows meet block_n keys at a time, in num_warps warps, with num_stages K/V tiles in flight."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


# Small enough that the gate's tiny problems cross several tiles in both directions.
INTERPRETER_TILES = (PrefillTile(32, 16, 4, 1), PrefillTile(16, 32, 4, 1))

# A thread has 255 registers, and pointers and masks take many: with 128 accumulators triton 3.6 spills on sm_90.
MAX_ACCUMULATORS_PER_THREAD = 96

# By the width of the tensor-core instructions, in order of preference. sm_90 to sm_107 have warpgroup-wide ones (wgmma,
# tcgen05); sm_80 to sm_89 and sm_120 have warp-wide ones only, whose accumulators need more registers.
_HALF_PRECISION = {
    "warp": (
        PrefillTile(128, 64, 8, 2),
        PrefillTile(64, 64, 8, 2),
        PrefillTile(64, 32, 8, 2),
    ),
    "warpgroup": (
        PrefillTile(128, 128, 8, 2),
        PrefillTile(128, 64, 8, 3),
        PrefillTile(128, 64, 8, 2),
        PrefillTile(64, 64, 8, 2),
        PrefillTile(64, 32, 8, 2),
    ),
}
# fp32 has no tensor-core path here ("ieee" precision): a thread holds whole rows of q and k, so wide heads need small
# tiles. One tile for head dimensions up to 64 and up to 256.
_FULL_PRECISION = {64: PrefillTile(32, 32, 8, 1), 256: PrefillTile(16, 16, 8, 1)}


def shared_bytes(tile: PrefillTile, head_dim: int, element_bytes: int) -> int:
    """Shared memory of one program: the Q tile, and K and V tiles for every stage."""
    return (tile.block_m + 2 * tile.num_stages * tile.block_n) * head_dim * element_bytes


def accumulators_per_thread(tile: PrefillTile, head_dim: int) -> int:
    """fp32 registers that one thread needs for its share of the scores and of the output."""
    return tile.block_m * (tile.block_n + head_dim) // (32 * tile.num_warps)


def is_valid(tile: PrefillTile, head_dim: int, element_bytes: int, shared_limit_bytes: int) -> bool:
    """Whether the kernel compiles with this tile, without spills: powers of two >= 16, registers, shared memory."""
    sides = (tile.block_m, tile.block_n)
    return (
        all(side >= 16 and side & (side - 1) == 0 for side in sides)
        and tile.num_warps in (1, 2, 4, 8)
        and tile.num_stages >= 1
        and accumulators_per_thread(tile, head_dim) <= MAX_ACCUMULATORS_PER_THREAD
        and shared_bytes(tile, head_dim, element_bytes) <= shared_limit_bytes
    )


def choose(head_dim: int, element_bytes: int, capability: int) -> PrefillTile:
    """The tile for a head dimension and element size on a GPU of `capability` (90 for sm_90)."""
    if element_bytes == 4:
        candidates = tuple(tile for widest, tile in _FULL_PRECISION.items() if head_dim <= widest)
    else:
        candidates = _HALF_PRECISION["warpgroup" if 90 <= capability < 120 else "warp"]
    limit = target_for(capability).shared_limit_bytes
    for tile in candidates:
        if is_valid(tile, head_dim, element_bytes, limit):
            return tile
    raise ValueError(f"no prefill tile fits head_dim={head_dim}, element_bytes={element_bytes} in {limit} bytes")
