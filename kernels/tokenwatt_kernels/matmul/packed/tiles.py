"""Tile sizes of matmul with a packed weight: what a tile depends on, one predicate, one choice, and the candidates."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.buckets import COLUMNS, TERMS, bucket
from tokenwatt_kernels.matmul.packed.formats import CHUNK, WORDS
from tokenwatt_kernels.matmul.packed.problems import PackedProblem
from tokenwatt_kernels.matmul.split_tile import SplitTile
from tokenwatt_kernels.occupancy import SHARED_RESERVED_BYTES
from tokenwatt_kernels.targets import target_for

FAMILY = "matmul.packed"
ROWS = (16, 128)
"""Least and most buckets of M: more rows take several tiles."""
LEAST_COPIED_COLUMNS = 32
"""Whose scales are 128 bytes, to which copies in shared memory are aligned."""
ELEMENT_BYTES, WORD_BYTES, SCALE_BYTES, SUM_BYTES = 2, 2, 4, 4


@dataclass(frozen=True, slots=True)
class PackedKey:
    """What a tile depends on besides the GPU.

    rows, columns, terms: buckets of M, N and K. is_mxfp4: the number format, otherwise int4.
    is_gated: the epilogue joins pairs of columns. can_copy: the hardware can copy tiles.
    """

    rows: int
    columns: int
    terms: int
    is_mxfp4: bool
    is_gated: bool
    can_copy: bool


KEY = PackedKey
KERNELS: dict[str, type[SplitTile]] = {"triton": SplitTile}

# (tile, programs): small enough that the gate's tiny problems are cut in the middle of tiles and steps.
INTERPRETER_TILES = (
    (SplitTile(16, 32, CHUNK, 4, 1, 1), 5),
    (SplitTile(64, 16, CHUNK, 4, 1, 1, least_steps=2, joins=True), 3),
    (SplitTile(32, 32, CHUNK, 4, 1, 1, descriptors=True), 7),
)

# A step of 128 columns is 8.5 KiB; three programs with four of them on the way cover the latency of memory twice. More
# rows take their accumulators, and of int4 the sums of a step beside them, so fewer programs fit.
_COPIED = {
    16: SplitTile(16, 128, CHUNK, 4, 5, 3, 4, descriptors=True),
    32: SplitTile(32, 128, CHUNK, 4, 4, 3, 4, descriptors=True),
    64: SplitTile(64, 128, CHUNK, 4, 3, 2, 4, descriptors=True),
    128: SplitTile(128, 128, CHUNK, 8, 3, 1, 4, descriptors=True),
}
_LOADED = {
    16: SplitTile(16, 64, CHUNK, 4, 3, 3, 4),
    32: SplitTile(32, 64, CHUNK, 4, 3, 2, 4),
    64: SplitTile(64, 64, CHUNK, 4, 2, 2, 4),
    128: SplitTile(128, 64, CHUNK, 8, 2, 1, 4),
}


def shared_bytes(tile: SplitTile) -> int:
    """Shared memory of one program: tiles of a, words and scales for every stage, and sums on their way out.

    Not counted is the weight of fewer than 128 columns, which sm_100 keeps there in 16 bits: fewer programs fit then.
    """
    step = tile.block_m * CHUNK * ELEMENT_BYTES + tile.block_n * (WORDS * WORD_BYTES + SCALE_BYTES)
    return max(step * tile.num_stages, tile.block_m * tile.block_n * SUM_BYTES) + SHARED_RESERVED_BYTES


def is_valid_on(tile: SplitTile, key: PackedKey, capability: int) -> bool:
    """Whether a call with the key can be answered with this tile on a GPU of `capability`."""
    target = target_for(capability)
    sides = (tile.block_m, tile.block_n)
    if not all(side & (side - 1) == 0 and 16 <= side <= 256 for side in sides) or tile.block_k != CHUNK:
        return False
    if tile.num_warps not in (4, 8) or min(tile.num_stages, tile.programs_per_multiprocessor, tile.least_steps) < 1:
        return False
    if tile.descriptors and not (key.can_copy and target.copies_tiles and tile.block_n >= LEAST_COPIED_COLUMNS):
        return False
    return shared_bytes(tile) * tile.programs_per_multiprocessor <= target.shared_limit_bytes


def make_key(m: int, n: int, k: int, number_format: str, *, is_gated: bool, can_copy: bool) -> PackedKey:
    """The key of a call."""
    return PackedKey(
        bucket(m, *ROWS), bucket(n, *COLUMNS), bucket(k, *TERMS), number_format == "mxfp4", is_gated, can_copy
    )


def key_of(problem: PackedProblem, dtype_name: str) -> PackedKey:
    """The key of a problem."""
    return make_key(
        problem.m,
        problem.n,
        problem.k,
        problem.number_format,
        is_gated=problem.activation != "none",
        can_copy=problem.can_be_copied(DTYPES[dtype_name].bytes),
    )


def default(key: PackedKey, capability: int) -> SplitTile:
    """The tile for a key where none has been measured."""
    tile = (_COPIED if key.can_copy and target_for(capability).copies_tiles else _LOADED)[key.rows]
    if not is_valid_on(tile, key, capability):
        raise ValueError(f"no packed matmul tile fits {key} on sm_{capability}")
    return tile


def candidates(key: PackedKey, capability: int) -> tuple[SplitTile, ...]:
    """The tiles worth measuring, the default first."""
    first = default(key, capability)
    tiles = [
        SplitTile(first.block_m, block_n, CHUNK, num_warps, num_stages, programs, 4, first.descriptors, joins=joins)
        for (block_n, num_warps), num_stages, programs, joins in product(
            ((64, 4), (128, 4), (256, 4), (256, 8)), (3, 5), (1, 2, 3, 4), (False, True)
        )
    ]
    worth = [tile for tile in tiles if is_valid_on(tile, key, capability) and _is_balanced(tile, key)]
    return tuple(dict.fromkeys([first, *worth]))


def _is_balanced(tile: SplitTile, key: PackedKey) -> bool:
    """Whether a thread has some sums, and room for them beside what it unpacks: a row of a chunk in half registers."""
    threads = 32 * tile.num_warps
    sums = tile.block_m * tile.block_n // threads * (1 if key.is_mxfp4 else 2)
    unpacked = tile.block_n * CHUNK // threads // 2
    return sums >= 4 and sums + unpacked + 40 <= tile.registers
