"""Tile sizes of matmul of NVFP4 numbers: what a tile depends on, one predicate, one choice, and the candidates."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from tokenwatt_kernels.matmul.buckets import COLUMNS, TERMS, bucket
from tokenwatt_kernels.matmul.nvfp4.problems import GROUP, Nvfp4Problem
from tokenwatt_kernels.matmul.problem import COPY_BYTES
from tokenwatt_kernels.matmul.split_tile import SplitTile
from tokenwatt_kernels.occupancy import SHARED_RESERVED_BYTES
from tokenwatt_kernels.targets import target_for

FAMILY = "matmul.nvfp4"
ROWS = (16, 128)
"""Least and most buckets of M: more rows take several tiles."""
SUM_BYTES = 4


@dataclass(frozen=True, slots=True)
class Nvfp4Key:
    """What a tile depends on besides the GPU.

    rows, columns, terms: buckets of M, N and K. is_gated: the epilogue joins pairs of columns.
    can_copy: the hardware can copy tiles.
    """

    rows: int
    columns: int
    terms: int
    is_gated: bool
    can_copy: bool


KEY = Nvfp4Key
KERNELS: dict[str, type[SplitTile]] = {"triton": SplitTile}

# (tile, programs): small enough that the gate's tiny problems are cut in the middle of tiles and steps.
INTERPRETER_TILES = (
    (SplitTile(16, 32, 64, 4, 1, 1), 5),
    (SplitTile(64, 16, 128, 4, 1, 1, least_steps=2, joins=True), 3),
    (SplitTile(32, 32, 256, 4, 1, 1, descriptors=True), 7),
)

_COPIED = {
    16: SplitTile(16, 128, 256, 4, 4, 2, 4, descriptors=True),
    32: SplitTile(32, 128, 256, 4, 4, 2, 4, descriptors=True),
    64: SplitTile(64, 128, 256, 4, 4, 1, 4, descriptors=True),
    128: SplitTile(128, 128, 256, 8, 4, 1, 4, descriptors=True),
}
_LOADED = {
    16: SplitTile(16, 128, 128, 4, 3, 2, 4),
    32: SplitTile(32, 128, 128, 4, 3, 2, 4),
    64: SplitTile(64, 128, 128, 8, 3, 1, 4),
    128: SplitTile(128, 128, 128, 8, 3, 1, 4),
}


def shared_bytes(tile: SplitTile) -> int:
    """Shared memory of one program at most: codes and scales for every stage, and sums on their way out."""
    step = (tile.block_m + tile.block_n) * (tile.block_k // 2 + tile.block_k // GROUP)
    return max(step * tile.num_stages, tile.block_m * tile.block_n * SUM_BYTES) + SHARED_RESERVED_BYTES


def is_valid_on(tile: SplitTile, key: Nvfp4Key, capability: int) -> bool:
    """Whether a call with the key can be answered with this tile on a GPU of `capability`.

    The interpreter, which stands for sm_90, takes any tile.
    """
    target = target_for(capability)
    sides = (tile.block_m, tile.block_n, tile.block_k)
    if not all(side & (side - 1) == 0 and side >= 16 for side in sides) or tile.block_k < 4 * GROUP:
        return False
    if tile.num_warps not in (4, 8) or min(tile.num_stages, tile.programs_per_multiprocessor, tile.least_steps) < 1:
        return False
    if tile.descriptors and not (key.can_copy and target.copies_tiles and tile.block_k // GROUP >= COPY_BYTES):
        return False
    # Tensor memory takes codes of 128 columns of the weight at a time; of fewer, triton makes bfloat16 first.
    if target.tensor_memory_columns and tile.block_n < 128:
        return False
    return shared_bytes(tile) * tile.programs_per_multiprocessor <= target.shared_limit_bytes


def make_key(m: int, n: int, k: int, *, is_gated: bool, can_copy: bool) -> Nvfp4Key:
    """The key of a call."""
    return Nvfp4Key(bucket(m, *ROWS), bucket(n, *COLUMNS), bucket(k, *TERMS), is_gated, can_copy)


def key_of(problem: Nvfp4Problem, dtype_name: str) -> Nvfp4Key:
    """The key of a problem."""
    return make_key(
        problem.m, problem.n, problem.k, is_gated=problem.activation != "none", can_copy=problem.can_be_copied
    )


def default(key: Nvfp4Key, capability: int) -> SplitTile:
    """The tile for a key where none has been measured."""
    tile = (_COPIED if key.can_copy and target_for(capability).copies_tiles else _LOADED)[key.rows]
    if not is_valid_on(tile, key, capability):
        raise ValueError(f"no nvfp4 matmul tile fits {key} on sm_{capability}")
    return tile


def candidates(key: Nvfp4Key, capability: int) -> tuple[SplitTile, ...]:
    """The tiles worth measuring, the default first."""
    first = default(key, capability)
    tiles = [
        SplitTile(
            first.block_m,
            block_n,
            block_k,
            num_warps,
            num_stages,
            programs,
            4,
            descriptors=first.descriptors,
            joins=joins,
        )
        for block_n, block_k, num_warps, num_stages, programs, joins in product(
            (64, 128), (128, 256), (4, 8), (3, 5), (1, 2), (False, True)
        )
    ]
    return tuple(dict.fromkeys([first, *(tile for tile in tiles if is_valid_on(tile, key, capability))]))
