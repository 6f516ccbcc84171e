"""Tile sizes of prefill: what a tile depends on, one predicate, one choice, and what is worth measuring."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from tokenwatt_kernels.attention.copies import LENGTHS, copied_keys
from tokenwatt_kernels.attention.heads import MIN_FLOAT8_PART, MIN_PART, is_power_of_two, value_block
from tokenwatt_kernels.attention.prefill import warp_specialised_tiles
from tokenwatt_kernels.attention.prefill.warp_specialised_tiles import WarpSpecialisedTile
from tokenwatt_kernels.attention.problem import FLOAT8, AttentionProblem
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.targets import target_for

FAMILY = "attention.prefill"

FLOAT8_CAPABILITY = 89


@dataclass(frozen=True, slots=True)
class PrefillTile:
    """block_m rows meet block_n keys at a time, in num_warps warps, with num_stages K and V tiles in shared memory.

    edge_n: keys of a step at the diagonal, at the edge of a window and at the end of a context: masks take registers.
    descriptors: whole steps are copied by the hardware (sm_90 to sm_107), where the tensors allow it.
    """

    block_m: int
    block_n: int
    edge_n: int
    num_warps: int
    num_stages: int
    descriptors: bool = False

    @property
    def name(self) -> str:
        """Such as 128x128 e64 w8 s2 desc."""
        copies = " desc" if self.descriptors else ""
        return f"{self.block_m}x{self.block_n} e{self.edge_n} w{self.num_warps} s{self.num_stages}{copies}"


@dataclass(frozen=True, slots=True)
class PrefillKey:
    """What a tile depends on besides the GPU: widths of keys and values, and how they lie in memory.

    element_bytes: of a query. copied_keys: the longest step of keys that the hardware may copy; 0 for none.
    is_mixed: keys and values are float8, queries are not.
    """

    head_dim: int
    value_dim: int
    element_bytes: int
    copied_keys: int
    is_mixed: bool = False


Tile = PrefillTile | WarpSpecialisedTile
KEY = PrefillKey
KERNELS: dict[str, type[Tile]] = {"triton": PrefillTile, "warp_specialised": WarpSpecialisedTile}

# Small enough that the gate's tiny problems cross several tiles in both directions.
INTERPRETER_TILES = (PrefillTile(32, 16, 16, 4, 1), PrefillTile(16, 32, 16, 4, 1, descriptors=True))

# fp32 registers of a thread for its share of scores and answer: more spill, or leave none for pointers. Hardware copies
# take almost none.
MOST_ACCUMULATORS = 96
MOST_ACCUMULATORS_WITH_DESCRIPTORS = 160
# With fewer no call spills, whatever its options. Warp-wide instructions need more registers beside the accumulators,
# twice that for keys in two parts. Found by compiling: what ships does not spill.
SAFE_ACCUMULATORS_OF_WARPS = 80
SAFE_ACCUMULATORS_OF_WARPS_IF_WIDE = 72  # of values beyond WIDE_VALUES elements
WIDE_VALUES = 128
SAFE_ACCUMULATORS_WITH_DESCRIPTORS = {1: 160, 2: 144}  # by the bytes of an element
# Where keys are float8 and queries are not: with the registers of the queries, from which triton multiplies them, or
# the keys of a step where the queries are too wide for that (`kernel.weight_shift`).
SAFE_OPERANDS_IF_MIXED = 168
MOST_DIMS_IN_REGISTERS = 128
SAFE_KEYS_IF_MIXED = 32

# By the width of the tensor-core instructions, in order of preference. sm_90 to sm_107 have warpgroup-wide ones (wgmma,
# tcgen05); sm_80 to sm_89 and sm_120 have warp-wide ones only, whose accumulators need more registers.
_TENSOR_CORES = {
    "warp": (
        PrefillTile(128, 64, 32, 8, 2),
        PrefillTile(128, 32, 16, 8, 2),
        PrefillTile(128, 32, 32, 8, 2),
        PrefillTile(64, 32, 32, 8, 2),
        PrefillTile(32, 32, 32, 8, 1),
    ),
    "warpgroup": (
        PrefillTile(128, 128, 64, 8, 3),
        PrefillTile(128, 128, 32, 8, 2),
        PrefillTile(128, 64, 32, 8, 3),
        PrefillTile(128, 32, 16, 8, 2),
        PrefillTile(64, 64, 32, 8, 2),
        PrefillTile(64, 32, 16, 8, 2),
        PrefillTile(64, 32, 32, 8, 1),
    ),
}
# fp32 has no tensor-core path here ("ieee" precision): a thread holds whole rows of q and k.
_FULL_PRECISION = (PrefillTile(32, 32, 32, 8, 1), PrefillTile(16, 16, 16, 8, 1), PrefillTile(16, 16, 16, 8, 2))
_FULL_PRECISION_WIDEST = (64, 128, 256)


def shared_bytes(tile: PrefillTile, head_dim: int, value_dim: int, element_bytes: int) -> int:
    """Shared memory of one program: the Q tile, and K and V tiles for every stage."""
    widths = head_dim + value_block(value_dim)
    return (tile.block_m * head_dim + tile.num_stages * tile.block_n * widths) * element_bytes


def accumulators_per_thread(tile: PrefillTile, value_dim: int) -> int:
    """fp32 registers that one thread needs for its share of the scores and of the answer."""
    return tile.block_m * (tile.block_n + value_block(value_dim)) // (32 * tile.num_warps)


def generation(capability: int) -> str:
    """The width of a GPU's tensor-core instructions: "warpgroup" or "warp"."""
    return "warpgroup" if 90 <= capability < 120 else "warp"


def is_valid(tile: PrefillTile, head_dim: int, value_dim: int, element_bytes: int, capability: int) -> bool:
    """Whether the kernel compiles with this tile for a GPU of `capability`: powers of two, registers, shared memory."""
    sides = (tile.block_m, tile.block_n, tile.edge_n)
    least = MIN_FLOAT8_PART if element_bytes == 1 else MIN_PART
    most_accumulators = MOST_ACCUMULATORS_WITH_DESCRIPTORS if tile.descriptors else MOST_ACCUMULATORS
    return (
        all(side >= least and is_power_of_two(side) for side in sides)
        and tile.edge_n <= tile.block_n
        and tile.num_warps in (1, 2, 4, 8)
        and tile.num_stages >= 1
        and (not tile.descriptors or target_for(capability).copies_tiles)
        and (element_bytes > 1 or capability >= FLOAT8_CAPABILITY)
        and accumulators_per_thread(tile, value_dim) <= most_accumulators
        and shared_bytes(tile, head_dim, value_dim, element_bytes) <= target_for(capability).shared_limit_bytes
    )


def _is_safe(
    tile: PrefillTile, head_dim: int, value_dim: int, element_bytes: int, capability: int, *, is_mixed: bool
) -> bool:
    """Whether a valid tile spilled in none of the combinations that the compile report asks for (`specimens.py`)."""
    accumulators = accumulators_per_thread(tile, value_dim)
    if generation(capability) == "warp":
        most = SAFE_ACCUMULATORS_OF_WARPS if value_dim <= WIDE_VALUES else SAFE_ACCUMULATORS_OF_WARPS_IF_WIDE
        return accumulators <= (most if is_power_of_two(head_dim) else most // 2)
    most = SAFE_ACCUMULATORS_WITH_DESCRIPTORS[element_bytes] if tile.descriptors else MOST_ACCUMULATORS
    if is_mixed and value_dim > MOST_DIMS_IN_REGISTERS:
        return accumulators <= most and tile.block_n <= SAFE_KEYS_IF_MIXED
    queries = tile.block_m * head_dim // (64 * tile.num_warps)  # two to a register
    return accumulators <= most and not (is_mixed and accumulators + queries > SAFE_OPERANDS_IF_MIXED)


def choose(
    head_dim: int, value_dim: int, element_bytes: int, capability: int, *, descriptors: bool, is_mixed: bool = False
) -> PrefillTile:
    """The tile for keys of head_dim and values of value_dim elements on a GPU of `capability` (90 for sm_90).

    descriptors: whether the tensors allow hardware copies; they are used where the GPU has them.
    is_mixed: whether keys and values are float8 and queries are not.
    """
    if element_bytes == 4:
        widest = max(head_dim, value_dim)
        tiles = tuple(
            tile for tile, limit in zip(_FULL_PRECISION, _FULL_PRECISION_WIDEST, strict=True) if widest <= limit
        )
    else:
        copies = descriptors and target_for(capability).copies_tiles
        tiles = tuple(
            tile
            for tile in (replace(tile, descriptors=copies) for tile in _TENSOR_CORES[generation(capability)])
            if _is_safe(tile, head_dim, value_dim, element_bytes, capability, is_mixed=is_mixed)
        )
    for tile in tiles:
        if is_valid(tile, head_dim, value_dim, element_bytes, capability):
            return tile
    raise ValueError(
        f"no prefill tile of sm_{capability} holds keys of {head_dim} and values of {value_dim} elements of "
        f"{element_bytes} bytes"
    )


def key_of(problem: AttentionProblem, dtype_name: str) -> PrefillKey:
    """The key of a problem whose tensors lie as a serving engine's do."""
    return PrefillKey(
        head_dim=problem.head_dim,
        value_dim=problem.values,
        element_bytes=DTYPES[dtype_name].bytes,
        copied_keys=copied_keys(lambda keys: problem.page_size % keys == 0),
        is_mixed=problem.kv_dtype == FLOAT8 and dtype_name != FLOAT8,
    )


def default(key: PrefillKey, capability: int) -> PrefillTile:
    """The tile for a key where none has been measured. Hardware copies are asked for first."""
    arguments = (key.head_dim, key.value_dim, key.element_bytes, capability)
    tile = choose(*arguments, descriptors=True, is_mixed=key.is_mixed)
    return tile if tile.block_n <= key.copied_keys else choose(*arguments, descriptors=False, is_mixed=key.is_mixed)


def is_valid_on(tile: Tile, key: PrefillKey, capability: int) -> bool:
    """Whether the tile's kernel compiles with it for a GPU of `capability`, and takes keys that lie like this."""
    arguments = (key.head_dim, key.value_dim, key.element_bytes, capability)
    if isinstance(tile, WarpSpecialisedTile):
        return (
            key.copied_keys == max(LENGTHS) and not key.is_mixed and warp_specialised_tiles.is_valid(tile, *arguments)
        )
    is_copied = not tile.descriptors or tile.block_n <= key.copied_keys
    return is_copied and is_valid(tile, *arguments)


def candidates(key: PrefillKey, capability: int) -> tuple[Tile, ...]:
    """The tiles worth measuring, the default first and the warp-specialised one last."""
    if key.element_bytes == 4:
        sizes = product((16, 32, 64), (16, 32), (16, 32), (4, 8), (1, 2), (False,))
    else:
        sizes = product((64, 128), (32, 64, 128), (32, 64), (4, 8), (2, 3), (True, False))
    tiles = [PrefillTile(*size) for size in sizes]
    if key.element_bytes < 4 and generation(capability) == "warpgroup":
        # Four warps multiply 64 rows together; eight would have to divide them by columns.
        tiles = [tile for tile in tiles if tile.block_m >= 16 * tile.num_warps]
    special = warp_specialised_tiles.TILES.get(key.head_dim)
    valid = [tile for tile in (*tiles, *filter(None, [special])) if is_valid_on(tile, key, capability)]
    return tuple(dict.fromkeys([default(key, capability), *valid]))
