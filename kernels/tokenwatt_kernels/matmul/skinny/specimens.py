"""What the compile report compiles for matmul of few rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from tokenwatt_kernels import tables
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.activations import ACTIVATIONS, is_gated
from tokenwatt_kernels.matmul.problem import DTYPE_NAMES, MatmulProblem, takes
from tokenwatt_kernels.matmul.skinny.kernel import (
    COMBINE_WARPS,
    combine_kernel,
    combined_columns,
    constants,
    split_kernel,
)
from tokenwatt_kernels.matmul.skinny.tiles import (
    FAMILY,
    SkinnyKey,
    SkinnyTile,
    default,
    is_valid,
    key_of,
    preferred,
)
from tokenwatt_kernels.matmul.specimen import make_specimen
from tokenwatt_kernels.targets import Target

SIZES = {
    "16 rows": (16, 4096, 4096),
    "32 rows": (32, 4096, 4096),
    "64 rows": (64, 4096, 4096),
    "16 rows unaligned": (16, 4100, 4100),
    "32 rows unaligned": (32, 4100, 4100),
    "64 rows unaligned": (64, 4100, 4100),
}

TRIED = ("bfloat16", "float8_e4m3fn")
"""Dtypes of all combinations: float16 is compiled as bfloat16 is, and float32 has few tiles."""


def _listed() -> Iterator[MatmulProblem]:
    for name, size in SIZES.items():
        yield MatmulProblem(name, *size)
    large = SIZES["16 rows"]
    yield MatmulProblem("residual", *large, has_bias=True, has_residual=True)
    for activation in filter(is_gated, ACTIVATIONS):
        yield MatmulProblem(activation, *large, activation)
    for scaling in ("tensor", "token_channel", "block"):
        yield MatmulProblem(scaling, *large, scaling=scaling)
    yield MatmulProblem("fast", *large, scaling="token_channel", fast_accumulation=True)


def _combinations() -> Iterator[MatmulProblem]:
    """Every option that changes the code, with every other; one gated activation stands for all."""
    for size, activation, ends, scaling, is_fast in product(
        SIZES,
        ("none", "swiglu"),
        (False, True),
        ("none", "token_channel", "block"),
        (False, True),
    ):
        if (is_fast and scaling != "token_channel") or ("unaligned" in size and not ends):
            continue
        name = f"{size} {activation} ends={ends} {scaling} fast={is_fast}"
        yield MatmulProblem(name, *SIZES[size], activation, ends, ends, scaling, is_fast)


def specimens(target: Target, dtype_names: tuple[str, ...]) -> list[Specimen]:
    """The kernel with the tile of a GPU without a table, for each dtype and listed problem.

    And in bfloat16 and float8, for all combinations of options, every tile that is chosen for some size, and those of
    such GPUs' tables.
    """
    found = []
    for dtype_name in dtype_names:
        if dtype_name not in DTYPE_NAMES:
            continue
        for problem in _listed():
            if takes(problem, dtype_name, target.capability):
                tile = default(key_of(problem, dtype_name), target.capability)
                found += [_split(problem, dtype_name, tile, target), _combine(problem, dtype_name, tile)]
        for problem in _combinations():
            if dtype_name in TRIED and takes(problem, dtype_name, target.capability):
                found += _rest(problem, dtype_name, target)
    return found


def _rest(problem: MatmulProblem, dtype_name: str, target: Target) -> Iterator[Specimen]:
    key = key_of(problem, dtype_name)
    tiles = [tile for tile in preferred(key, target.capability) if is_valid(tile, key, target.capability)]
    for _, row in tables.rows_for(target.capability, FAMILY):
        if isinstance(row.tile, SkinnyTile) and _is_alike(row.key, key):
            tiles.append(row.tile)
    for tile in dict.fromkeys(tiles):
        found = [_split(problem, dtype_name, tile, target)]
        if problem.n % tile.block_n == 0 and problem.scaling != "block" and not problem.fast_accumulation:
            found.append(_combine(problem, dtype_name, tile))  # it knows nothing of the rest
        for specimen in found:
            yield replace(specimen, name=f"{specimen.name} {tile.name}", is_listed=False)


def _is_alike(key: SkinnyKey, other: SkinnyKey) -> bool:
    """Whether two keys differ in sizes alone."""
    return replace(key, rows=0, columns=0, terms=0) == replace(other, rows=0, columns=0, terms=0)


def _split(problem: MatmulProblem, dtype_name: str, tile: SkinnyTile, target: Target) -> Specimen:
    descriptors = {}
    if tile.descriptors:
        descriptors = {"a_desc": (tile.block_m, tile.block_k), "weight_desc": (tile.block_n, tile.block_k)}
    further = {
        "DESCRIPTORS": tile.descriptors,
        "BLOCKED": problem.scaling == "block",
        "PROMOTES": problem.promotes(dtype_name, target.capability),
    }
    return make_specimen(
        f"skinny {dtype_name} {problem.name}",
        split_kernel,
        problem,
        dtype_name,
        {**constants(tile, problem.activation, problem.scaling), **further},
        descriptors,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        needs_tensor_cores=DTYPES[dtype_name].has_tensor_core_path,
        needs_warpgroup_mma=tile.descriptors,
        configuration=tile.name,
        max_registers=tile.registers,
    )


def _combine(problem: MatmulProblem, dtype_name: str, tile: SkinnyTile) -> Specimen:
    return make_specimen(
        f"skinny combine {dtype_name} {problem.name}",
        combine_kernel,
        problem,
        dtype_name,
        {**constants(tile, problem.activation, problem.scaling), "BLOCK_C": combined_columns(tile)},
        {},
        num_warps=COMBINE_WARPS,
        num_stages=3,
        needs_tensor_cores=False,
    )
