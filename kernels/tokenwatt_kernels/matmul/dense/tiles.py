"""Tile sizes of dense matmul: what a tile depends on, one predicate, one choice, and what is worth measuring."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from tokenwatt_kernels.matmul import key as keys
from tokenwatt_kernels.matmul.key import MatmulKey
from tokenwatt_kernels.matmul.library_tile import LibraryTile
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.matmul.scaling import BLOCK
from tokenwatt_kernels.occupancy import SHARED_RESERVED_BYTES
from tokenwatt_kernels.targets import REGISTERS_PER_SM, REGISTERS_PER_THREAD, target_for

FAMILY = "matmul.dense"
ROWS = (128, 8192)
"""Least and most buckets of M."""
WORTH_FILLING = 128
"""Tiles that an output should have at least: one for each multiprocessor of most GPUs that this is for."""
MOST_PROMOTED = 64
"""fp32 sums of a thread beside which there is room for as many in the tensor cores' accumulator."""


@dataclass(frozen=True, slots=True)
class DenseTile:
    """block_m x block_n outputs at a time, block_k of their sums per step.

    group_m: row tiles that are computed next to each other, so that they find the same weight tile in L2.
    parts: parts in which a tile is stored, a power of two.
    programs_per_multiprocessor: how many programs share the tiles, for each multiprocessor.
    descriptors: the hardware copies tiles, in and out.
    flattens: the copies of the next tile start while one is stored.
    """

    block_m: int
    block_n: int
    block_k: int
    group_m: int
    num_warps: int
    num_stages: int
    parts: int = 1
    programs_per_multiprocessor: int = 1
    descriptors: bool = False
    flattens: bool = False

    @property
    def registers(self) -> int:
        """What a thread may take, so that a multiprocessor holds programs_per_multiprocessor. Multiples of 8 count."""
        threads = 32 * self.num_warps * self.programs_per_multiprocessor
        return min(REGISTERS_PER_THREAD, REGISTERS_PER_SM // threads // 8 * 8)

    @property
    def name(self) -> str:
        """Such as 128x256x64 g8 w8 s4 parts4 desc flat."""
        sides = f"{self.block_m}x{self.block_n}x{self.block_k}"
        parts = f" parts{self.parts}" if self.parts > 1 else ""
        programs = f" p{self.programs_per_multiprocessor}" if self.programs_per_multiprocessor > 1 else ""
        flags = f"{' desc' if self.descriptors else ''}{' flat' if self.flattens else ''}"
        return f"{sides} g{self.group_m} w{self.num_warps} s{self.num_stages}{parts}{programs}{flags}"


AnyTile = DenseTile | LibraryTile


KEY = MatmulKey
KERNELS: dict[str, type[AnyTile]] = {"triton": DenseTile, "cublas": LibraryTile}

# (tile, programs): small enough that the gate's tiny problems cross several tiles in every direction.
INTERPRETER_TILES = (
    (DenseTile(16, 64, 32, 4, 4, 1, parts=2), 3),
    (DenseTile(32, 32, 64, 8, 4, 1, flattens=True), 2),
    (DenseTile(16, 32, 32, 2, 4, 1, descriptors=True), 3),
)

# In order of preference: large tiles read each operand less often, small ones fill the GPU with few rows or columns.
_FULL_PRECISION = (DenseTile(64, 64, 16, 8, 8, 2), DenseTile(32, 64, 16, 8, 4, 2))
_COPIED = (
    DenseTile(128, 256, 64, 8, 8, 4, parts=4, descriptors=True, flattens=True),
    DenseTile(128, 256, 64, 8, 8, 3, parts=4, descriptors=True, flattens=True),
    DenseTile(128, 128, 64, 8, 8, 4, parts=2, descriptors=True, flattens=True),
    DenseTile(64, 128, 64, 8, 4, 4, parts=2, programs_per_multiprocessor=2, descriptors=True),
    DenseTile(64, 64, 128, 8, 4, 4, programs_per_multiprocessor=1, descriptors=True),
)
_LOADED = (
    DenseTile(128, 128, 64, 8, 8, 3, parts=2),
    DenseTile(64, 128, 64, 8, 4, 3, parts=2),
    DenseTile(64, 64, 64, 8, 4, 3),
)
_COPIED_FLOAT8 = (
    DenseTile(128, 256, 128, 8, 8, 3, parts=4, descriptors=True, flattens=True),
    DenseTile(128, 128, 128, 8, 8, 4, parts=2, descriptors=True, flattens=True),
    DenseTile(64, 128, 128, 8, 4, 4, parts=2, programs_per_multiprocessor=2, descriptors=True),
    DenseTile(64, 64, 128, 8, 4, 4, programs_per_multiprocessor=2, descriptors=True),
)
_LOADED_FLOAT8 = (
    DenseTile(128, 128, 64, 8, 8, 3, parts=2),
    DenseTile(64, 128, 64, 8, 4, 3, parts=2),
    DenseTile(64, 64, 128, 8, 4, 2),
)


def shared_bytes(tile: DenseTile, key: MatmulKey) -> int:
    """Shared memory of one program at most: a tile of each operand for every stage, and a part of the output."""
    operands = (tile.block_m + tile.block_n) * tile.block_k * tile.num_stages * key.element_bytes
    out = tile.block_m * tile.block_n // tile.parts // (2 if key.is_gated else 1) * max(2, key.element_bytes)
    return operands + out + SHARED_RESERVED_BYTES


def is_valid(tile: DenseTile, key: MatmulKey, capability: int) -> bool:
    """Whether the kernel compiles with this tile: powers of two, room in shared memory and registers, copies."""
    sides = (tile.block_m, tile.block_n, tile.block_k, tile.parts)
    if not all(side & (side - 1) == 0 for side in sides) or min(sides[:3]) < 16 or tile.parts < 1:
        return False
    if tile.num_warps not in (1, 2, 4, 8) or min(tile.group_m, tile.num_stages, tile.programs_per_multiprocessor) < 1:
        return False
    if tile.block_n // tile.parts < (32 if key.is_gated else 16):
        return False
    if tile.descriptors and not (key.can_copy and target_for(capability).copies_tiles):
        return False
    # A step along K must not cross into the next block of scales, nor a tile into the next block of columns.
    if key.is_blocked and (tile.block_k > BLOCK or tile.block_n > BLOCK):
        return False
    sums = tile.block_m * tile.block_n // (32 * tile.num_warps)
    leaves = key.is_blocked or (not key.is_fast and target_for(capability).shortens_float8_sums)
    if sums > 128 or (leaves and sums > MOST_PROMOTED):
        return False
    return shared_bytes(tile, key) * tile.programs_per_multiprocessor <= target_for(capability).shared_limit_bytes


def key_of(problem: MatmulProblem, dtype_name: str) -> MatmulKey:
    """The key of a problem."""
    return keys.key_of(ROWS, problem, dtype_name)


def default(key: MatmulKey, capability: int) -> DenseTile:
    """The tile for a key where none has been measured: the largest of which there are enough to fill a GPU."""
    valid = [tile for tile in preferred(key, capability) if is_valid(tile, key, capability)]
    if not valid:
        raise ValueError(f"no dense matmul tile fits {key} on sm_{capability}")
    filling = [tile for tile in valid if _tiles(tile, key) >= WORTH_FILLING]
    return filling[0] if filling else valid[-1]


def preferred(key: MatmulKey, capability: int) -> tuple[DenseTile, ...]:
    """The tiles that `default` chooses from, valid or not."""
    if key.element_bytes == 4:
        return _FULL_PRECISION
    is_copied = key.can_copy and target_for(capability).copies_tiles
    if key.element_bytes == 1:
        return _COPIED_FLOAT8 if is_copied else _LOADED_FLOAT8
    return _COPIED if is_copied else _LOADED


def _tiles(tile: DenseTile, key: MatmulKey) -> int:
    """Tiles of an output of the key's bucketed size."""
    return -(-key.rows // tile.block_m) * -(-key.columns // tile.block_n)


def is_valid_on(tile: AnyTile, key: MatmulKey, capability: int) -> bool:
    """Whether a call with the key can be answered with this tile on a GPU of `capability`."""
    if isinstance(tile, LibraryTile):
        return tile.takes(key.element_bytes, is_blocked=key.is_blocked, can_copy=key.can_copy)
    return is_valid(tile, key, capability)


def candidates(key: MatmulKey, capability: int) -> tuple[AnyTile, ...]:
    """The tiles worth measuring, the default first, the library last."""
    first = default(key, capability)
    if key.element_bytes == 4:
        sizes = product((first.block_m,), (32, 64, 128), (16, 32), (8,), (4, 8), (2, 3))
        tiles = [DenseTile(*size) for size in sizes]
    else:
        sides = ((64, 128), (64, 256), (128, 64), (128, 128), (128, 256), (256, 64), (256, 128))
        steps = (
            (128 // key.element_bytes,) if first.descriptors else (64 // key.element_bytes, 128 // key.element_bytes)
        )
        switches = ((True, False), (True, True)) if first.descriptors else ((False, False),)
        tiles = [
            DenseTile(
                *(block_m, block_n, block_k, group_m, 8 if block_m * block_n > 64 * 128 else 4, num_stages),
                parts={64: 1, 128: 2, 256: 4}[block_n],
                descriptors=descriptors,
                flattens=flattens,
            )
            for (block_m, block_n), block_k, group_m, num_stages, (descriptors, flattens) in product(
                sides, steps, (8, 16), (3, 4), switches
            )
        ]
    library = LibraryTile()
    worth = [tile for tile in tiles if is_valid(tile, key, capability) and _is_balanced(tile)]
    ends = [library] if is_valid_on(library, key, capability) else []
    return tuple(dict.fromkeys([first, *worth, *ends]))


def _is_balanced(tile: DenseTile) -> bool:
    """Whether a thread has some fp32 accumulators, and registers left for the rest."""
    return 4 <= tile.block_m * tile.block_n // (32 * tile.num_warps) <= 128
