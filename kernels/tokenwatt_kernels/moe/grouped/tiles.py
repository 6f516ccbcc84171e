"""Tile sizes of grouped matmuls: what a tile depends on, one predicate, one choice, and what is worth measuring."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.dense.tiles import MOST_PROMOTED
from tokenwatt_kernels.matmul.packed.formats import CHUNK, WORDS
from tokenwatt_kernels.matmul.packed.tiles import LEAST_COPIED_COLUMNS
from tokenwatt_kernels.matmul.problem import COPY_BYTES, FLOAT8_CAPABILITY
from tokenwatt_kernels.matmul.scaling import BLOCK as SCALE_BLOCK
from tokenwatt_kernels.moe.grouped.problems import FLOAT8, GroupedProblem
from tokenwatt_kernels.targets import REGISTERS_PER_SM, REGISTERS_PER_THREAD, target_for

FAMILY = "moe.grouped"
MANY_ROWS = 0
"""Stands in a key for every number of rows beyond the bounded ones."""
ROW_BOUNDS = (16, 32, 64)
PACKED_SCALE_BYTES = 4
PACKED_BYTES = WORDS * 2 + PACKED_SCALE_BYTES
"""Of a row of a step of a packed weight: its words, and their scales."""


@dataclass(frozen=True, slots=True)
class GroupedTile:
    """block_m rows of one expert by block_n columns per tile of outputs, block_k of the sum per step.

    group_m: row tiles of an expert that follow each other, so that they find the same weight tile in L2.
    programs_per_multiprocessor: how many programs share the tiles, for each multiprocessor.
    swapped: the weight is the first operand of the product.
    descriptors: tiles of the weight are copied by the hardware.
    """

    block_m: int
    block_n: int
    block_k: int
    group_m: int
    num_warps: int
    num_stages: int
    programs_per_multiprocessor: int
    swapped: bool = False
    descriptors: bool = False

    @property
    def registers(self) -> int:
        """What a thread may take, so that a multiprocessor holds programs_per_multiprocessor. Multiples of 8 count."""
        threads = 32 * self.num_warps * self.programs_per_multiprocessor
        return min(REGISTERS_PER_THREAD, REGISTERS_PER_SM // threads // 8 * 8)

    def with_pointers(self) -> GroupedTile:
        """The same tile for a weight that the hardware cannot copy."""
        return replace(self, descriptors=False)

    @property
    def name(self) -> str:
        """Such as 128x256x64 g8 w8 s4 p1 desc."""
        size = f"{self.block_m}x{self.block_n}x{self.block_k} g{self.group_m} w{self.num_warps} s{self.num_stages}"
        words = [size, f"p{self.programs_per_multiprocessor}"]
        return " ".join([*words, *(["swap"] if self.swapped else []), *(["desc"] if self.descriptors else [])])


@dataclass(frozen=True, slots=True)
class GroupedKey:
    """What a tile depends on besides the GPU.

    rows: the most rows of an expert, on average, that take the tile, or MANY_ROWS.
    element_bytes: of rows, and of the weight unless it is packed, in mxfp4. block_scaled: float8 with a factor for each
        128 of K.
    is_fast: products may stay in the tensor cores' accumulator; of 16 and 32 bits they always do.
    copies: the hardware may copy tiles of the weight.
    """

    rows: int
    element_bytes: int
    is_mxfp4: bool
    block_scaled: bool
    is_fast: bool
    copies: bool

    def leaves_accumulator(self, capability: int) -> bool:
        """Whether the sum of each step joins an fp32 one on a GPU of `capability`."""
        return self.block_scaled or (not self.is_fast and target_for(capability).shortens_float8_sums)


KEY = GroupedKey
KERNELS: dict[str, type[GroupedTile]] = {"triton": GroupedTile}

# (tile, programs): small enough that the gate's tiny problems cross several tiles in every direction, and that a
# program walks several of them.
INTERPRETER_TILES = (
    (GroupedTile(16, 32, 32, 2, 4, 1, 1), 3),
    (GroupedTile(32, 64, 64, 4, 4, 1, 1, swapped=True, descriptors=True), 2),
    (GroupedTile(16, 256, 64, 1, 4, 1, 1), 3),
)
INTERPRETER_PACKED_TILES = (
    (GroupedTile(16, 32, CHUNK, 2, 4, 1, 1, swapped=True), 3),
    (GroupedTile(32, 64, CHUNK, 4, 4, 1, 1, swapped=True, descriptors=True), 2),
)
INTERPRETER_BLOCK_TILES = (
    (GroupedTile(16, 32, SCALE_BLOCK, 2, 4, 1, 1), 3),
    (GroupedTile(32, 64, SCALE_BLOCK, 4, 4, 1, 1, swapped=True, descriptors=True), 2),
)


# The weight comes first, from registers, where it becomes bfloat16.
_PACKED = {
    True: {
        16: GroupedTile(16, 128, CHUNK, 1, 4, 5, 3, swapped=True, descriptors=True),
        32: GroupedTile(32, 128, CHUNK, 1, 4, 4, 2, swapped=True, descriptors=True),
        64: GroupedTile(64, 128, CHUNK, 1, 8, 3, 1, swapped=True, descriptors=True),
        MANY_ROWS: GroupedTile(128, 128, CHUNK, 8, 8, 3, 1, swapped=True, descriptors=True),
    },
    False: {
        16: GroupedTile(16, 64, CHUNK, 1, 4, 3, 3, swapped=True),
        32: GroupedTile(32, 64, CHUNK, 1, 4, 3, 2, swapped=True),
        64: GroupedTile(64, 64, CHUNK, 1, 8, 2, 1, swapped=True),
        MANY_ROWS: GroupedTile(128, 64, CHUNK, 8, 8, 2, 1, swapped=True),
    },
}
"""By whether the hardware copies, and the key's rows."""


def shared_bytes(tile: GroupedTile, key: GroupedKey) -> int:
    """Shared memory of one program: one tile of rows and one of the weight for every stage."""
    weight_bytes = PACKED_BYTES if key.is_mxfp4 else key.element_bytes * tile.block_k
    return (tile.block_m * tile.block_k * key.element_bytes + tile.block_n * weight_bytes) * tile.num_stages


def is_valid_on(tile: GroupedTile, key: GroupedKey, capability: int) -> bool:
    """Whether the kernel compiles with this tile for a GPU of `capability`, and takes weights that lie like this."""
    sides = (tile.block_m, tile.block_n, tile.block_k)
    fits = shared_bytes(tile, key) * tile.programs_per_multiprocessor
    return (
        all(side >= 16 and side & (side - 1) == 0 for side in sides)
        and (key.element_bytes > 1 or (capability >= FLOAT8_CAPABILITY and tile.block_k >= 32))
        and (not key.is_mxfp4 or (tile.swapped and tile.block_k == CHUNK and tile.block_n >= LEAST_COPIED_COLUMNS))
        # A step of a block-scaled product has one factor, and so have the columns of a tile.
        and (not key.block_scaled or (tile.block_k == SCALE_BLOCK and tile.block_n <= SCALE_BLOCK))
        and min(tile.group_m, tile.num_stages, tile.programs_per_multiprocessor) >= 1
        and tile.num_warps in (1, 2, 4, 8)
        and (not tile.descriptors or (key.copies and target_for(capability).copies_tiles))
        and (not key.leaves_accumulator(capability) or _sums(tile) <= MOST_PROMOTED)
        and fits <= target_for(capability).shared_limit_bytes
    )


def default(key: GroupedKey, capability: int) -> GroupedTile:
    """The tile for a key where none has been measured."""
    for tile in _preferred(key, capability):
        if is_valid_on(tile, key, capability):
            return tile
    raise ValueError(f"no grouped tile of sm_{capability} takes {key}")


def _preferred(key: GroupedKey, capability: int) -> list[GroupedTile]:
    """In order of preference. Few rows stream the weight, with many bytes in flight; many keep the multipliers busy."""
    is_warpgroup = target_for(capability).copies_tiles
    copies = key.copies and is_warpgroup
    rows = key.rows
    if key.element_bytes == 4:  # no tensor cores ("ieee" precision)
        return [GroupedTile(16, 64, 32, 1, 4, 2, 1)] if rows == 16 else [GroupedTile(64, 64, 16, 8, 8, 2, 1)]
    step = 128 // key.element_bytes  # 128 bytes
    # A thread of sm_100 holds a whole row of a tile, and beside it no factors of more than 64 columns.
    holds_rows = is_warpgroup and capability >= 100
    if key.is_mxfp4:
        tile = _PACKED[copies][rows]
        return [replace(tile, block_m=64) if holds_rows and rows == MANY_ROWS else tile]
    if rows != MANY_ROWS:
        steps = 2 * step if is_warpgroup and key.element_bytes == 2 else step
        swapped = is_warpgroup and not (key.block_scaled and holds_rows and rows == 64)
        tiles = [
            GroupedTile(rows, 64, steps, 1, 4, stages, programs, swapped=swapped, descriptors=copies)
            for programs, stages in ((3, 4), (2, 4), (2, 3), (1, 4), (1, 3), (1, 2))
        ]
        return tiles if rows == 16 else tiles[1:]
    if key.element_bytes == 1 and holds_rows:
        return [GroupedTile(128, 64, step, 8, 8, 4, 1, descriptors=copies)]
    # With hardware copies, ptxas finds no registers for the factors of many float8 columns.
    copies = copies and (key.element_bytes == 2 or key.block_scaled)
    if key.leaves_accumulator(capability):
        return [
            GroupedTile(128, block_n, SCALE_BLOCK, 8, 8, stages, 1, descriptors=copies)
            for block_n, stages in ((128, 4), (128, 3), (64, 3), (64, 2))
        ]
    if is_warpgroup:
        return [GroupedTile(128, 256, step, 8, 8, stages, 1, descriptors=copies) for stages in (4, 3)]
    return [GroupedTile(128, 128, step, 8, 8, stages, 1) for stages in (4, 3, 2)]


def row_bound(rows: int, experts: int) -> int:
    """The key's rows for R = `rows` among E = `experts`: those of an expert if as many as can be have some."""
    average = -(-rows // max(1, min(rows, experts)))
    return next((bound for bound in ROW_BOUNDS if average <= bound), MANY_ROWS)


def make_key(
    rows: int,
    experts: int,
    element_bytes: int,
    *,
    is_mxfp4: bool,
    block_scaled: bool,
    is_fast: bool,
    copies: bool,
) -> GroupedKey:
    """The key for R = `rows` among E = `experts`."""
    is_fast = (is_fast and not block_scaled) or element_bytes > 1
    return GroupedKey(row_bound(rows, experts), element_bytes, is_mxfp4, block_scaled, is_fast, copies)


def key_of(problem: GroupedProblem, dtype_name: str) -> GroupedKey:
    """The key of a problem whose weights lie as a model's do."""
    element_bytes = DTYPES[dtype_name].bytes
    row_bytes = problem.n * PACKED_SCALE_BYTES if problem.is_mxfp4 else problem.k * element_bytes
    return make_key(
        sum(problem.rows),
        len(problem.rows),
        element_bytes,
        is_mxfp4=problem.is_mxfp4,
        block_scaled=dtype_name == FLOAT8 and problem.scales == "block",
        is_fast=problem.fast_accumulation,
        copies=row_bytes % COPY_BYTES == 0,
    )


def candidates(key: GroupedKey, capability: int) -> tuple[GroupedTile, ...]:
    """The tiles worth measuring, the default first."""
    first = default(key, capability)
    copies = (True, False) if first.descriptors else (False,)
    if key.is_mxfp4:
        sizes = product((first.block_m,), (64, 128), (CHUNK,), (first.group_m,), (4, 8), (3, 4, 5), (1, 2, 3))
        found = [GroupedTile(*size, swapped=True, descriptors=first.descriptors) for size in sizes]
    elif key.element_bytes == 4:
        sizes = product((first.block_m,), (32, 64, 128), (16, 32), (first.group_m,), (4, 8), (2, 3), (1, 2))
        found = [GroupedTile(*size) for size in sizes]
    elif key.rows == MANY_ROWS:
        sizes = product((64, 128), (128, 256), (first.block_k,), (8,), (4, 8), (3, 4), (1, 2))
        found = [GroupedTile(*size, descriptors=desc) for size in sizes for desc in copies]
    else:
        steps = (SCALE_BLOCK,) if key.leaves_accumulator(capability) else (first.block_k, 2 * first.block_k)
        sizes = product((first.block_m,), (64,), steps, (1,), (4,), (3, 4), (1, 2, 3))
        orders = (True, False) if target_for(capability).copies_tiles else (False,)
        found = [
            GroupedTile(*size, swapped=swapped, descriptors=desc)
            for size in sizes
            for swapped in orders
            for desc in copies
        ]
    worth = [tile for tile in found if is_valid_on(tile, key, capability) and _is_balanced(tile)]
    groups = [replace(first, group_m=group_m) for group_m in (4, 16)] if key.rows == MANY_ROWS else []
    return tuple(dict.fromkeys([first, *worth, *groups]))


def _is_balanced(tile: GroupedTile) -> bool:
    """Whether a thread has some fp32 accumulators, and registers left for the rest."""
    return 4 <= _sums(tile) <= 128 and _sums(tile) + 40 <= tile.registers


def _sums(tile: GroupedTile) -> int:
    """fp32 sums of a thread."""
    return tile.block_m * tile.block_n // (32 * tile.num_warps)
