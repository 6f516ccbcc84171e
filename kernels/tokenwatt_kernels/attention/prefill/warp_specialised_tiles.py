"""Tile sizes of the warp-specialised prefill kernel: one predicate, and one choice per head."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwatt_kernels.attention.heads import is_power_of_two
from tokenwatt_kernels.targets import target_for

CAPABILITY = 90
# Four warps start a product of 64 rows together. While one consumer has the tensor cores, the other computes weights.
CONSUMER_ROWS = 64
BLOCK_M = 2 * CONSUMER_ROWS
BARRIER_BYTES = 1024
"""More than the barriers of one program take in shared memory."""


@dataclass(frozen=True, slots=True)
class WarpSpecialisedTile:
    """block_n keys of one step, and num_buffers tiles of K, and as many of V, in flight."""

    block_n: int
    num_buffers: int

    @property
    def name(self) -> str:
        """Such as 128x128 ws b2."""
        return f"{BLOCK_M}x{self.block_n} ws b{self.num_buffers}"


# A consumer thread has 240 registers and holds (block_n + head_dim) / 2 accumulators and block_n / 4 packed weights.
TILES = {64: WarpSpecialisedTile(128, 4), 128: WarpSpecialisedTile(128, 2), 256: WarpSpecialisedTile(64, 2)}


def shared_bytes(tile: WarpSpecialisedTile, head_dim: int) -> int:
    """Shared memory of the tiles of one program, in 16-bit elements; barriers add less than BARRIER_BYTES."""
    return 2 * head_dim * (BLOCK_M + 2 * tile.num_buffers * tile.block_n)


def is_valid(tile: WarpSpecialisedTile, head_dim: int, value_dim: int, element_bytes: int, capability: int) -> bool:
    """Whether the kernel exists for these heads on a GPU of `capability`, and the tile fits its shared memory."""
    return (
        capability == CAPABILITY
        and element_bytes == 2
        and head_dim == value_dim
        and head_dim in TILES
        and tile.block_n >= 16
        and is_power_of_two(tile.block_n)
        and tile.num_buffers >= 1
        and shared_bytes(tile, head_dim) + BARRIER_BYTES <= target_for(capability).shared_limit_bytes
    )
