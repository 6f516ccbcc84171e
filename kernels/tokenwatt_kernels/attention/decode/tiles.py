"""Tile sizes of decode and how many programs share its work: one predicate, one choice, and what is worth measuring."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from tokenwatt_kernels.attention.copies import copied_keys
from tokenwatt_kernels.attention.heads import MIN_PART, is_power_of_two, row_block, value_block
from tokenwatt_kernels.attention.problem import AttentionProblem
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.occupancy import SHARED_RESERVED_BYTES
from tokenwatt_kernels.targets import REGISTERS_PER_SM, REGISTERS_PER_THREAD, target_for

FAMILY = "attention.decode"
FLOAT8_CAPABILITY = 89
MOST_PROGRAMS_PER_MULTIPROCESSOR = 4
PAGE_BYTES = 4  # of a block-table entry
WIDE_VALUES = 256  # elements; beyond it the answer of 64 rows does not fit the registers


@dataclass(frozen=True, slots=True)
class DecodeTile:
    """block_m rows meet block_n cached keys at a time, in num_warps warps, with num_stages K and V tiles in flight.

    edge_n: keys of a step where a mask is needed, if whole steps are copied by the hardware (`descriptors`).
    programs_per_multiprocessor: how many programs the batch is shared among, for each multiprocessor.
    least_steps: no program gets fewer steps, as long as there are any.
    parts_at_once: partial answers that a combining program holds.
    joins: there is no combining launch; the last program of a segment adds up its parts.
    """

    block_m: int
    block_n: int
    edge_n: int
    num_warps: int
    num_stages: int
    programs_per_multiprocessor: int
    least_steps: int = 1
    parts_at_once: int = 16
    descriptors: bool = False
    joins: bool = False

    @property
    def registers(self) -> int:
        """What a thread may take, so that a multiprocessor holds programs_per_multiprocessor. Multiples of 8 count.

        Told so, the compiler neither takes more nor spills to make room for programs that are not there.
        """
        threads = 32 * self.num_warps * self.programs_per_multiprocessor
        return min(REGISTERS_PER_THREAD, REGISTERS_PER_SM // threads // 8 * 8)

    @property
    def name(self) -> str:
        """Such as 16x64 e64 w4 s2 p3."""
        least = f" l{self.least_steps}" if self.least_steps > 1 else ""
        copies = " desc" if self.descriptors else ""
        size = f"{self.block_m}x{self.block_n} e{self.edge_n} w{self.num_warps} s{self.num_stages}"
        end = f"{' join' if self.joins else ''}"
        return f"{size} p{self.programs_per_multiprocessor}{least}{copies}{end}"


@dataclass(frozen=True, slots=True)
class DecodeKey:
    """What a tile depends on besides the GPU: rows, widths of keys and values, and how they lie in memory.

    rows: of the tile that holds the query rows of a KV head (queries times group), or part of them.
    element_bytes: of a cached key. copied_keys: the longest step of keys that the hardware may copy; 0 for none.
    """

    rows: int
    head_dim: int
    value_dim: int
    element_bytes: int
    values_are_keys: bool
    copied_keys: int


KEY = DecodeKey
KERNELS: dict[str, type[DecodeTile]] = {"triton": DecodeTile}

# (tile, programs): small enough that the gate's tiny problems are cut in the middle of segments, steps and batches.
INTERPRETER_TILES = (
    (DecodeTile(16, 16, 16, 4, 1, 1, parts_at_once=2), 5),
    (DecodeTile(16, 32, 16, 4, 1, 1, least_steps=2, descriptors=True, joins=True), 3),
)


def shared_bytes(tile: DecodeTile, head_dim: int, value_dim: int, element_bytes: int, *, values_are_keys: bool) -> int:
    """Shared memory of one program at most: the query tile in 16 bits or more, K and V tiles and pages for every stage.

    Weights pass through it in 16 bits, and so does a float8 V, or for warpgroup-wide instructions both K and V.
    """
    values = value_block(value_dim)
    widths = head_dim + (0 if values_are_keys else values)
    is_warpgroup = tile.block_m >= 64
    stages = tile.num_stages + is_warpgroup  # warpgroup-wide instructions read one tile more
    copies = 2 * (values + is_warpgroup * head_dim) if element_bytes == 1 else 0
    per_key = stages * widths * element_bytes + copies + 2 * tile.block_m + tile.num_stages * PAGE_BYTES
    return tile.block_m * head_dim * max(2, element_bytes) + tile.block_n * per_key


def is_valid(
    tile: DecodeTile, head_dim: int, value_dim: int, element_bytes: int, capability: int, *, values_are_keys: bool
) -> bool:
    """Whether the kernel compiles with this tile for a GPU of `capability`: powers of two and shared memory."""
    needed = shared_bytes(tile, head_dim, value_dim, element_bytes, values_are_keys=values_are_keys)
    return (
        all(side >= 16 and is_power_of_two(side) for side in (tile.block_m, tile.block_n, tile.edge_n))
        and tile.edge_n <= tile.block_n
        and tile.num_warps in (1, 2, 4, 8)
        and min(tile.num_stages, tile.programs_per_multiprocessor, tile.least_steps) >= 1
        and (not tile.descriptors or target_for(capability).copies_tiles)
        and (element_bytes > 1 or capability >= FLOAT8_CAPABILITY)
        and needed <= target_for(capability).shared_limit_bytes
    )


def _fitting(
    tile: DecodeTile, head_dim: int, value_dim: int, element_bytes: int, capability: int, *, values_are_keys: bool
) -> int:
    """Programs whose tiles fit the shared memory and the registers of a multiprocessor together, at most four."""
    needed = shared_bytes(tile, head_dim, value_dim, element_bytes, values_are_keys=values_are_keys)
    limit = target_for(capability).shared_limit_bytes
    if needed > limit:
        return 0
    by_memory = (limit + SHARED_RESERVED_BYTES) // (needed + SHARED_RESERVED_BYTES)
    return max(1, min(by_memory, _fitting_registers(tile, value_dim, element_bytes), MOST_PROGRAMS_PER_MULTIPROCESSOR))


def _fitting_registers(tile: DecodeTile, value_dim: int, element_bytes: int) -> int:
    """Programs whose threads have the registers that they take. Found by compiling."""
    accumulators = tile.block_m * (tile.block_n + value_block(value_dim)) // (32 * tile.num_warps)
    registers = 128 if accumulators <= 16 and element_bytes > 1 else 168 if accumulators <= 24 else 256
    return REGISTERS_PER_SM // (32 * tile.num_warps * registers)


def _block_m(rows: int, value_dim: int, element_bytes: int) -> int:
    if element_bytes == 4:
        return row_block(rows, 16)
    widest = 128 if element_bytes == 1 else WIDE_VALUES  # float8 passes through registers to become 16 bits wide
    return row_block(rows, 32 if value_block(value_dim) > widest else 64)


def choose(
    rows: int, head_dim: int, value_dim: int, element_bytes: int, capability: int, *, values_are_keys: bool = False
) -> DecodeTile:
    """The tile for `rows` query rows per KV head (queries times group) on a GPU of `capability` (90 for sm_90).

    element_bytes: of a cached key. As many programs share a multiprocessor as its memory holds, at most four: they keep
    the memory busy while one of them waits or computes.
    """
    is_wide = value_block(value_dim) > WIDE_VALUES
    block_m = _block_m(rows, value_dim, element_bytes)
    # Heads in two parts, or padded, need masks and pointers for which a thread has registers beside a small tile only.
    is_odd = not is_power_of_two(head_dim) and not is_wide
    is_heavy = block_m > MIN_PART and (is_odd or value_block(value_dim) > 128)
    num_warps = 8 if is_wide or is_heavy or element_bytes == 4 else 4
    widest = max(head_dim, value_dim)
    # A thread has no registers for the pointers to 64 keys of 128 or more 16-bit elements, beside everything else.
    is_short = is_odd or (block_m == MIN_PART and element_bytes == 2 and widest == 128)
    # Of small tiles more fit, and more bytes should be in flight; wide fp32 ones leave registers for one.
    num_stages = 3 if widest <= 64 else 1 if element_bytes == 4 and widest > 128 else 2
    stages = (3, 2) if is_short else (num_stages,)
    # fp32 has no tensor-core path here ("ieee" precision): a thread holds whole rows of q and k, hence the small tile.
    # Eight warps share 64 keys of a latent; of 32 they would compute every score twice.
    widths = (16,) if element_bytes == 4 else (32, 16) if is_short else (64, 32, 16)
    for programs in (2, 1):
        for block_n, num_stages in product(widths, stages):
            tile = DecodeTile(block_m, block_n, block_n, num_warps, num_stages, programs)
            if not is_valid(tile, head_dim, value_dim, element_bytes, capability, values_are_keys=values_are_keys):
                continue
            fitting = _fitting(tile, head_dim, value_dim, element_bytes, capability, values_are_keys=values_are_keys)
            if fitting >= programs:
                return replace(tile, programs_per_multiprocessor=fitting)
    raise ValueError(
        f"no decode tile of sm_{capability} holds {rows} rows, keys of {head_dim} and values of {value_dim} elements "
        f"of {element_bytes} bytes"
    )


def make_key(
    rows: int, head_dim: int, value_dim: int, element_bytes: int, *, values_are_keys: bool, copied_keys: int
) -> DecodeKey:
    """The key for `rows` query rows per KV head: those that take the same tile share it."""
    return DecodeKey(
        _block_m(rows, value_dim, element_bytes), head_dim, value_dim, element_bytes, values_are_keys, copied_keys
    )


def key_of(problem: AttentionProblem, dtype_name: str) -> DecodeKey:
    """The key of a problem whose tensors lie as a serving engine's do."""
    return make_key(
        problem.queries[0] * problem.group,
        problem.head_dim,
        problem.values,
        4 if dtype_name == "float32" else DTYPES[problem.kv_dtype or dtype_name].bytes,
        values_are_keys=problem.is_latent,
        # A value that is part of a latent has the distances of the latent, which hardware copies do not take.
        copied_keys=0 if problem.is_latent else copied_keys(lambda keys: problem.page_size % keys == 0),
    )


def default(key: DecodeKey, capability: int) -> DecodeTile:
    """The tile for a key where none has been measured."""
    return choose(
        key.rows, key.head_dim, key.value_dim, key.element_bytes, capability, values_are_keys=key.values_are_keys
    )


def is_valid_on(tile: DecodeTile, key: DecodeKey, capability: int) -> bool:
    """Whether the kernel compiles with this tile for a GPU of `capability`, and takes keys that lie like this."""
    arguments = (key.head_dim, key.value_dim, key.element_bytes, capability)
    return (not tile.descriptors or tile.block_n <= key.copied_keys) and is_valid(
        tile, *arguments, values_are_keys=key.values_are_keys
    )


def candidates(key: DecodeKey, capability: int) -> tuple[DecodeTile, ...]:
    """The tiles worth measuring, the default first: every shape, with as many programs as fit and one less."""
    first = default(key, capability)
    lengths = dict.fromkeys((first.block_n, *((32, 64, 128) if key.element_bytes < 4 else (16, 32))))
    shapes = product(lengths, (4, 8), (2, 3), (False, True))
    found = [first]
    for block_n, num_warps, num_stages, descriptors in shapes:
        edge_n = min(32, block_n) if descriptors else block_n
        tile = DecodeTile(first.block_m, block_n, edge_n, num_warps, num_stages, 1, descriptors=descriptors)
        if is_valid_on(tile, key, capability):
            fitting = _fitting_key(tile, key, capability)
            sharing = product({fitting: 0, max(1, fitting - 1): 0}, (False, True))
            found += [replace(tile, programs_per_multiprocessor=count, joins=joins) for count, joins in sharing]
    return tuple(dict.fromkeys(found))


def _fitting_key(tile: DecodeTile, key: DecodeKey, capability: int) -> int:
    return _fitting(
        tile, key.head_dim, key.value_dim, key.element_bytes, capability, values_are_keys=key.values_are_keys
    )
