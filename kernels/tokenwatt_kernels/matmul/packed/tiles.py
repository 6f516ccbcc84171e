"""Tile sizes of matmul with a packed weight: what a tile depends on, one predicate, one choice, and the candidates."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.buckets import COLUMNS, TERMS, bucket
from tokenwatt_kernels.matmul.packed.formats import CHUNK, WORDS
from tokenwatt_kernels.matmul.packed.problems import PackedProblem
from tokenwatt_kernels.occupancy import SHARED_RESERVED_BYTES
from tokenwatt_kernels.targets import REGISTERS_PER_SM, REGISTERS_PER_THREAD, target_for

FAMILY = "matmul.packed"
ROWS = (16, 128)
"""Least and most buckets of M: more rows take several tiles."""
ELEMENT_BYTES, WORD_BYTES, SCALE_BYTES, SUM_BYTES = 2, 2, 4, 4


@dataclass(frozen=True, slots=True)
class PackedTile:
    """block_n columns and block_m rows of the output; a step is a chunk of 128 terms.

    programs_per_multiprocessor: how many programs share the weight, for each multiprocessor.
    least_steps: no program gets fewer steps, as long as there are any.
    descriptors: the hardware copies tiles.
    overlaps: the combining launch begins while the other still runs (programmatic dependent launch, from sm_90 on).
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    programs_per_multiprocessor: int
    least_steps: int = 1
    descriptors: bool = False
    overlaps: bool = False

    @property
    def registers(self) -> int:
        """What a thread may take, so that a multiprocessor holds programs_per_multiprocessor. Multiples of 8 count."""
        threads = 32 * self.num_warps * self.programs_per_multiprocessor
        return min(REGISTERS_PER_THREAD, REGISTERS_PER_SM // threads // 8 * 8)

    @property
    def name(self) -> str:
        """Such as 16x128 w4 s4 p4 l4 desc."""
        least = f" l{self.least_steps}" if self.least_steps > 1 else ""
        flags = f"{' desc' if self.descriptors else ''}{' pdl' if self.overlaps else ''}"
        sides = f"{self.block_m}x{self.block_n}"
        return f"{sides} w{self.num_warps} s{self.num_stages} p{self.programs_per_multiprocessor}{least}{flags}"


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
KERNELS: dict[str, type[PackedTile]] = {"triton": PackedTile}

# (tile, programs): small enough that the gate's tiny problems are cut in the middle of tiles and steps.
INTERPRETER_TILES = (
    (PackedTile(16, 32, 4, 1, 1), 5),
    (PackedTile(64, 16, 4, 1, 1, least_steps=2), 3),
    (PackedTile(32, 32, 4, 1, 1, descriptors=True), 7),
)

# A step of 128 columns is 8.5 KiB; four programs with three of them on the way cover the latency of memory twice. More
# rows take their accumulators, and of int4 the sums of a step beside them, so fewer programs fit.
_COPIED = {
    16: (PackedTile(16, 128, 4, 4, 4, 4, descriptors=True), PackedTile(16, 128, 4, 4, 3, 4, descriptors=True)),
    32: (PackedTile(32, 128, 4, 4, 3, 4, descriptors=True),),
    64: (PackedTile(64, 128, 4, 3, 2, 4, descriptors=True),),
    128: (PackedTile(128, 128, 8, 3, 1, 4, descriptors=True),),
}
# An mxfp4 weight takes more registers on its way: its factors, and the bits of the fourth quarter.
_COPIED_MXFP4 = {**_COPIED, 16: (PackedTile(16, 128, 4, 5, 3, 4, descriptors=True),)}
_LOADED = {
    16: (PackedTile(16, 64, 4, 4, 4, 4), PackedTile(16, 64, 4, 3, 3, 4)),
    32: (PackedTile(32, 64, 4, 4, 3, 4), PackedTile(32, 64, 4, 3, 2, 4)),
    64: (PackedTile(64, 64, 4, 3, 2, 4), PackedTile(64, 64, 4, 2, 2, 4)),
    128: (PackedTile(128, 64, 8, 2, 1, 4),),
}


def shared_bytes(tile: PackedTile) -> int:
    """Shared memory of one program at most: tiles of a, words and scales for every stage, and sums on their way out."""
    step = tile.block_m * CHUNK * ELEMENT_BYTES + tile.block_n * (WORDS * WORD_BYTES + SCALE_BYTES)
    return max(step * tile.num_stages, tile.block_m * tile.block_n * SUM_BYTES) + SHARED_RESERVED_BYTES


def is_valid_on(tile: PackedTile, key: PackedKey, capability: int) -> bool:
    """Whether a call with the key can be answered with this tile on a GPU of `capability`."""
    target = target_for(capability)
    if not all(side & (side - 1) == 0 and 16 <= side <= 256 for side in (tile.block_m, tile.block_n)):
        return False
    if tile.num_warps not in (4, 8) or min(tile.num_stages, tile.programs_per_multiprocessor, tile.least_steps) < 1:
        return False
    if tile.descriptors and not (key.can_copy and target.copies_tiles):
        return False
    if tile.overlaps and not target.can_overlap:
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


def preferred(key: PackedKey, capability: int) -> tuple[PackedTile, ...]:
    """The tiles that `default` chooses from, valid or not."""
    if not (key.can_copy and target_for(capability).copies_tiles):
        return _LOADED[key.rows]
    return (_COPIED_MXFP4 if key.is_mxfp4 else _COPIED)[key.rows]


def default(key: PackedKey, capability: int) -> PackedTile:
    """The tile for a key where none has been measured."""
    for tile in preferred(key, capability):
        if is_valid_on(tile, key, capability):
            return tile
    raise ValueError(f"no packed matmul tile fits {key} on sm_{capability}")


def candidates(key: PackedKey, capability: int) -> tuple[PackedTile, ...]:
    """The tiles worth measuring, the default first."""
    first = default(key, capability)
    tiles = [
        PackedTile(
            first.block_m, block_n, num_warps, num_stages, programs, 4, descriptors=first.descriptors, overlaps=overlaps
        )
        for block_n, num_warps, num_stages, programs, overlaps in product(
            (64, 128, 256), (4, 8), (3, 4, 5), (1, 2, 3, 4), (False, True)
        )
    ]
    worth = [tile for tile in tiles if is_valid_on(tile, key, capability) and _is_balanced(tile, key)]
    return tuple(dict.fromkeys([first, *worth]))


def _is_balanced(tile: PackedTile, key: PackedKey) -> bool:
    """Whether a thread has some sums, and room for them beside what it unpacks: a row of a chunk in half registers."""
    threads = 32 * tile.num_warps
    sums = tile.block_m * tile.block_n // threads * (1 if key.is_mxfp4 else 2)
    unpacked = tile.block_n * CHUNK // threads // 2
    return sums >= 4 and sums + unpacked + 40 <= tile.registers
