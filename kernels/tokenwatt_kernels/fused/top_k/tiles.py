"""Tile sizes of the choice of tokens: logits per program and group, and how many groups are sorted at a time.

Sorting costs more than reading where k is large, and what is sorted are the V / group largest logits of groups, then
the k * group logits of the chosen ones: together least for a group of sqrt(V / k).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.fused.top_k.problems import TopKProblem
from tokenwatt_kernels.targets import target_for

FAMILY = "fused.top_k"
MAX_K = 128
WARP_THREADS = 32
MOST_KEYS_PER_THREAD = 32


@dataclass(frozen=True, slots=True)
class TopKTile:
    """block: logits of a program, in groups of `group`; num_warps share them.

    groups_at_once: largest logits of groups that a selecting program sorts in one go, with select_warps.
    """

    block: int
    group: int
    num_warps: int
    groups_at_once: int
    select_warps: int

    @property
    def name(self) -> str:
        """Such as 4096/32 w4 select 2048 w8."""
        return f"{self.block}/{self.group} w{self.num_warps} select {self.groups_at_once} w{self.select_warps}"


@dataclass(frozen=True, slots=True)
class TopKKey:
    """What a tile depends on besides the GPU.

    block_k: k, rounded up to a power of two.
    """

    block_k: int
    element_bytes: int


KEY = TopKKey
KERNELS: dict[str, type[TopKTile]] = {"triton": TopKTile}

# Small enough that a row has several parts, and several steps of groups.
INTERPRETER_TILES = (TopKTile(32, 4, 1, 16, 1), TopKTile(128, 8, 4, 8, 4))


def block(size: int) -> int:
    """The next power of two."""
    return 1 << (size - 1).bit_length()


def make_key(k: int, element_bytes: int) -> TopKKey:
    """The key of the k largest logits."""
    return TopKKey(block(k), element_bytes)


def key_of(problem: TopKProblem, dtype_name: str) -> TopKKey:
    """The key of a problem."""
    return make_key(problem.k, DTYPES[dtype_name].bytes)


def default(key: TopKKey, capability: int) -> TopKTile:
    """The tile for a key where none has been measured; the same on every GPU."""
    target_for(capability)
    block_size = 16_384 // key.element_bytes // 2
    if key.block_k == 1:
        return TopKTile(block_size, 128, 4, 1024, 4)
    if key.block_k <= 16:
        return TopKTile(block_size, 64, 4, 1024, 4)
    return TopKTile(block_size, 32, 4, 2048, 8)


def is_valid(tile: TopKTile, key: TopKKey) -> bool:
    """Whether the kernels can be compiled with this tile: powers of two, and registers for the keys that are sorted."""
    sides = (tile.block, tile.group, tile.num_warps, tile.groups_at_once, tile.select_warps)
    sorted_keys = max(tile.groups_at_once, tile.group * key.block_k)
    return (
        all(side >= 1 and side & (side - 1) == 0 for side in sides)
        and tile.group <= tile.block
        and max(tile.num_warps, tile.select_warps) <= 16
        and key.block_k <= MAX_K
        and sorted_keys <= MOST_KEYS_PER_THREAD * WARP_THREADS * tile.select_warps
        and tile.block <= 64 * WARP_THREADS * tile.num_warps
    )


def is_valid_on(tile: TopKTile, key: TopKKey, capability: int) -> bool:
    """Whether the kernels compile with this tile for a GPU of `capability`."""
    target_for(capability)
    return is_valid(tile, key)


def candidates(key: TopKKey, capability: int) -> tuple[TopKTile, ...]:
    """The tiles worth measuring, the default first."""
    first = default(key, capability)
    readers = [
        replace(first, block=size, num_warps=warps) for size, warps in product((2048, 4096, 8192, 16_384), (2, 4, 8))
    ]
    selectors = [
        replace(first, group=group, groups_at_once=groups, select_warps=warps)
        for group, groups, warps in product((16, 32, 64, 128), (1024, 2048), (4, 8, 16))
    ]
    return tuple(dict.fromkeys([first, *(tile for tile in (*readers, *selectors) if is_valid(tile, key))]))
