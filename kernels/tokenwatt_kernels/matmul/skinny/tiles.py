"""Tile sizes of matmul of few rows: what a tile depends on, one predicate, one choice, and what is worth measuring."""

from __future__ import annotations

from itertools import product

from tokenwatt_kernels.matmul import key as keys
from tokenwatt_kernels.matmul.key import MatmulKey
from tokenwatt_kernels.matmul.library_tile import LibraryTile
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.matmul.scaling import BLOCK
from tokenwatt_kernels.matmul.split_tile import SplitTile
from tokenwatt_kernels.occupancy import SHARED_RESERVED_BYTES
from tokenwatt_kernels.targets import target_for

FAMILY = "matmul.skinny"
ROWS = (16, 64)
"""Least and most buckets of M."""


AnyTile = SplitTile | LibraryTile


KEY = MatmulKey
KERNELS: dict[str, type[AnyTile]] = {"triton": SplitTile, "cublas": LibraryTile}

# (tile, programs): small enough that the gate's tiny problems are cut in the middle of tiles and steps.
INTERPRETER_TILES = (
    (SplitTile(64, 32, 32, 4, 1, 1), 5),
    (SplitTile(64, 16, 64, 4, 1, 1, least_steps=2, joins=True), 3),
    (SplitTile(64, 32, 32, 4, 1, 1, descriptors=True), 7),
)

# Stages and programs such that the copies in flight cover the latency of memory: some 32 KiB per multiprocessor do for
# 4.8 TB/s at 1 us, and the rest is there for programs that wait for each other.
_COPIED = {
    16: (SplitTile(16, 64, 128, 4, 5, 2, 4, descriptors=True, joins=True),),
    32: (SplitTile(32, 64, 128, 4, 4, 2, 4, descriptors=True, joins=True),),
    64: (SplitTile(64, 64, 128, 4, 3, 2, 4, descriptors=True, joins=True),),
}
_COPIED_FLOAT8 = {
    16: (SplitTile(16, 128, 128, 4, 6, 2, 4, descriptors=True, joins=True),),
    32: (SplitTile(32, 128, 128, 4, 5, 2, 4, descriptors=True, joins=True),),
    64: (
        SplitTile(64, 128, 128, 4, 4, 2, 4, descriptors=True, joins=True),
        SplitTile(64, 64, 128, 4, 4, 2, 4, descriptors=True, joins=True),
    ),
}
_LOADED = {
    16: (SplitTile(16, 64, 128, 4, 4, 2, 4), SplitTile(16, 64, 64, 4, 4, 2, 4)),
    32: (SplitTile(32, 64, 128, 4, 3, 2, 4), SplitTile(32, 64, 64, 4, 4, 2, 4)),
    64: (SplitTile(64, 64, 64, 4, 4, 2, 4), SplitTile(64, 64, 64, 4, 3, 2, 4)),
}
_LOADED_FLOAT8 = {
    16: (SplitTile(16, 64, 128, 4, 5, 2, 4), SplitTile(16, 64, 128, 4, 4, 2, 4)),
    32: (SplitTile(32, 64, 128, 4, 4, 2, 4),),
    64: (SplitTile(64, 64, 128, 4, 3, 2, 4),),
}
# fp32 has no tensor-core path here ("ieee" precision).
_FULL_PRECISION = {
    16: (SplitTile(16, 64, 16, 4, 3, 2, 4),),
    32: (SplitTile(32, 64, 16, 4, 3, 2, 4),),
    64: (SplitTile(64, 64, 32, 8, 2, 1, 4),),
}


def shared_bytes(tile: SplitTile, element_bytes: int) -> int:
    """Shared memory of one program at most: a tile of each operand for every stage, and sums on their way out."""
    operands = (tile.block_m + tile.block_n) * tile.block_k * tile.num_stages * element_bytes
    return max(operands, tile.block_m * tile.block_n * 4) + SHARED_RESERVED_BYTES


def is_valid(tile: SplitTile, key: MatmulKey, capability: int) -> bool:
    """Whether the kernel compiles with this tile: powers of two, room in shared memory and registers, copies."""
    sides = (tile.block_m, tile.block_n, tile.block_k)
    if not all(side & (side - 1) == 0 for side in sides) or min(sides) < 16 or tile.block_m < key.rows:
        return False
    if tile.num_warps not in (1, 2, 4, 8):
        return False
    if min(tile.num_stages, tile.programs_per_multiprocessor, tile.least_steps) < 1:
        return False
    if tile.descriptors and not (key.can_copy and target_for(capability).copies_tiles):
        return False
    # A step along K must not cross into the next block of scales, nor a tile into the next block of columns.
    if key.is_blocked and (tile.block_k > BLOCK or tile.block_n > BLOCK):
        return False
    # Where sums come from tensor memory, those of a step and those of all steps lie in registers side by side.
    target = target_for(capability)
    most_sums = 32 if target.tensor_memory_columns and key.element_bytes == 1 else 64
    if tile.block_m * tile.block_n // (32 * tile.num_warps) > most_sums:
        return False
    needed = shared_bytes(tile, key.element_bytes) * tile.programs_per_multiprocessor
    return needed <= target.shared_limit_bytes


def key_of(problem: MatmulProblem, dtype_name: str) -> MatmulKey:
    """The key of a problem."""
    return keys.key_of(ROWS, problem, dtype_name)


def preferred(key: MatmulKey, capability: int) -> tuple[SplitTile, ...]:
    """The tiles that `default` chooses from, valid or not."""
    is_copied = key.can_copy and target_for(capability).copies_tiles
    if key.element_bytes == 4:
        tiles = _FULL_PRECISION
    elif key.element_bytes == 1:
        tiles = _COPIED_FLOAT8 if is_copied else _LOADED_FLOAT8
    else:
        tiles = _COPIED if is_copied else _LOADED
    return tiles[key.rows]


def default(key: MatmulKey, capability: int) -> SplitTile:
    """The tile for a key where none has been measured."""
    for tile in preferred(key, capability):
        if is_valid(tile, key, capability):
            return tile
    raise ValueError(f"no skinny matmul tile fits {key} on sm_{capability}")


def is_valid_on(tile: AnyTile, key: MatmulKey, capability: int) -> bool:
    """Whether a call with the key can be answered with this tile on a GPU of `capability`."""
    if isinstance(tile, LibraryTile):
        return tile.takes(key.element_bytes, is_blocked=key.is_blocked, can_copy=key.can_copy)
    return is_valid(tile, key, capability)


def candidates(key: MatmulKey, capability: int) -> tuple[AnyTile, ...]:
    """The tiles worth measuring, the default first, the library last."""
    first = default(key, capability)
    steps = {4: (32, 64), 2: (64, 128), 1: (128, 256)}[key.element_bytes]
    tiles = [
        SplitTile(
            first.block_m, block_n, block_k, 4, num_stages, programs, 4,
            descriptors=first.descriptors, joins=joins,
        )
        for block_n, block_k, num_stages, programs, joins in product(
            (64, 128), steps, (3, 5), (1, 2, 3), (False, True)
        )
    ]  # fmt: skip
    worth = [tile for tile in tiles if is_valid(tile, key, capability) and _is_balanced(tile)]
    library = LibraryTile()
    ends = [library] if is_valid_on(library, key, capability) else []
    return tuple(dict.fromkeys([first, *worth, *ends]))


def _is_balanced(tile: SplitTile) -> bool:
    """Whether a thread has some fp32 accumulators."""
    return tile.block_m * tile.block_n // (32 * tile.num_warps) >= 4
