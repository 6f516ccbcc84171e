"""Tile sizes and the number of context splits of the decode kernel."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwatt_kernels.targets import target_for

MIN_ROWS = 16  # tl.dot's smallest side
MAX_SPLITS = 64
PROGRAMS_PER_MULTIPROCESSOR = 2
MIN_STEPS_PER_SPLIT = 4


@dataclass(frozen=True, slots=True)
class DecodeTile:
    """block_n cached tokens per step, in num_warps warps; num_stages as triton's software pipeliner takes it."""

    block_n: int
    num_warps: int
    num_stages: int


# (tile, splits): small enough that the gate's tiny problems cross several tiles and leave some splits empty.
INTERPRETER_TILES = ((DecodeTile(16, 4, 1), 4), (DecodeTile(32, 4, 1), 1))

# In order of preference. More stages than two fetch block-table entries earlier, not more tiles: K and V addresses
# depend on those entries, and triton keeps one K and one V tile in shared memory whatever the number of stages.
_HALF_PRECISION = (DecodeTile(64, 4, 2), DecodeTile(32, 4, 2), DecodeTile(16, 4, 2))
# fp32 has no tensor-core path here ("ieee" precision): a thread holds whole rows of q and k, hence the small tile.
_FULL_PRECISION = (DecodeTile(16, 8, 2),)


def block_rows(group: int) -> int:
    """Rows of the tile that holds all query heads of one KV head: a power of two, at least 16."""
    return max(MIN_ROWS, 1 << (group - 1).bit_length())


def shared_bytes(tile: DecodeTile, group: int, head_dim: int, element_bytes: int) -> int:
    """Shared memory of one program at most: the query tile, and K and V tiles for every stage."""
    return (block_rows(group) + 2 * tile.num_stages * tile.block_n) * head_dim * element_bytes


def is_valid(tile: DecodeTile, group: int, head_dim: int, element_bytes: int, shared_limit_bytes: int) -> bool:
    """Whether the kernel can be compiled with this tile: a power of two, tl.dot's minimum, and shared memory."""
    return (
        tile.block_n >= 16
        and tile.block_n & (tile.block_n - 1) == 0
        and tile.num_warps in (1, 2, 4, 8)
        and tile.num_stages >= 1
        and shared_bytes(tile, group, head_dim, element_bytes) <= shared_limit_bytes
    )


def choose(group: int, head_dim: int, element_bytes: int, capability: int) -> DecodeTile:
    """The tile for G query heads per KV head, a head dimension and an element size on a GPU of `capability`."""
    limit = target_for(capability).shared_limit_bytes
    for tile in _FULL_PRECISION if element_bytes == 4 else _HALF_PRECISION:
        if is_valid(tile, group, head_dim, element_bytes, limit):
            return tile
    raise ValueError(
        f"no decode tile fits group={group}, head_dim={head_dim}, element_bytes={element_bytes} in {limit} bytes"
    )


def choose_splits(sequences: int, kv_heads: int, max_context: int, block_n: int, multiprocessors: int) -> int:
    """How many programs share one sequence's context: a power of two, at most 64.

    Enough to give every multiprocessor two programs, but none that would walk fewer than four tiles.
    max_context is what the block table can hold, because the lengths themselves are on the device.
    """
    wanted = PROGRAMS_PER_MULTIPROCESSOR * multiprocessors // max(1, sequences * kv_heads)
    useful = max_context // (MIN_STEPS_PER_SPLIT * block_n)
    limit = max(1, min(wanted, useful, MAX_SPLITS))
    return 1 << (limit.bit_length() - 1)
