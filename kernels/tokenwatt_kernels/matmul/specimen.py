"""What the compile report compiles for the families of one weight, and the type of every argument of a kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from tokenwatt_kernels import tables
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.families import part
from tokenwatt_kernels.matmul.activations import ACTIVATIONS, is_gated
from tokenwatt_kernels.matmul.library_tile import LibraryTile
from tokenwatt_kernels.matmul.problem import DTYPE_NAMES, MatmulProblem, takes
from tokenwatt_kernels.targets import Target

OPERANDS = {"a_ptr", "weight_ptr"}
LIKE_OUT = {"out_ptr", "bias_ptr", "residual_ptr"}
FLOATS = {"a_scale_ptr", "weight_scale_ptr", "partial_ptr"}
ALIGNED_NUMBERS = {"N", "K", "a_stride_m", "weight_stride_n", "out_stride_m", "residual_stride_m"}

TRIED = ("bfloat16", "float8_e4m3fn")
"""Dtypes of all combinations: float16 is compiled as bfloat16 is, and float32 has few tiles."""

Sizes = Mapping[str, tuple[int, int, int]]
Make = Callable[[MatmulProblem, str, Any, Target], list[Specimen]]
"""The kernels of a launch for a problem, a dtype and a tile."""


def family_specimens(
    family: str,
    sizes: Sizes,
    main: str,
    tried: tuple[str, ...],
    make: Make,
    target: Target,
    dtype_names: tuple[str, ...],
) -> list[Specimen]:
    """What `make` gives with the tile of a GPU without a table, for each dtype and listed problem.

    And in TRIED dtypes, for all combinations of options, every tile that is chosen for some size, and those of the
    tables of such GPUs.
    sizes: M, N and K by name. main: the name of those that the options are listed for; tried: those that they are
        combined for, each with all others; where rows are not aligned, only with bias and residual.
    """
    tiles = part(family, "tiles")
    found = []
    for dtype_name in dtype_names:
        if dtype_name not in DTYPE_NAMES:
            continue
        for problem in _listed(sizes, main):
            if takes(problem, dtype_name, target.capability):
                tile = tiles.default(tiles.key_of(problem, dtype_name), target.capability)
                found += make(problem, dtype_name, tile, target)
        for problem in _combinations({name: sizes[name] for name in tried}):
            if dtype_name in TRIED and takes(problem, dtype_name, target.capability):
                for tile in _tiles(family, problem, dtype_name, target):
                    found += [
                        replace(specimen, name=f"{specimen.name} {tile.name}", is_listed=False)
                        for specimen in make(problem, dtype_name, tile, target)
                    ]
    return found


def _listed(sizes: Sizes, main: str) -> Iterator[MatmulProblem]:
    for name, size in sizes.items():
        yield MatmulProblem(name, *size)
    yield MatmulProblem("residual", *sizes[main], has_bias=True, has_residual=True)
    for activation in filter(is_gated, ACTIVATIONS):
        yield MatmulProblem(activation, *sizes[main], activation)
    for scaling in ("tensor", "token_channel", "block"):
        yield MatmulProblem(scaling, *sizes[main], scaling=scaling)
    yield MatmulProblem("fast", *sizes[main], scaling="token_channel", fast_accumulation=True)


def _combinations(sizes: Sizes) -> Iterator[MatmulProblem]:
    """Every option that changes the code, with every other; one gated activation stands for all."""
    for name, activation, ends, scaling, is_fast in product(
        sizes, ("none", "swiglu"), (False, True), ("none", "token_channel", "block"), (False, True)
    ):
        if (is_fast and scaling != "token_channel") or ("unaligned" in name and not ends):
            continue
        full_name = f"{name} {activation} ends={ends} {scaling} fast={is_fast}"
        yield MatmulProblem(full_name, *sizes[name], activation, ends, ends, scaling, is_fast)


def _tiles(family: str, problem: MatmulProblem, dtype_name: str, target: Target) -> list[Any]:
    """The tiles of ours that a GPU of this generation may launch for a problem like this, of whatever size."""
    tiles = part(family, "tiles")
    key = tiles.key_of(problem, dtype_name)
    preferred = [
        tile for tile in tiles.preferred(key, target.capability) if tiles.is_valid(tile, key, target.capability)
    ]
    measured = [
        row.tile
        for _, row in tables.rows_for(target.capability, family)
        if row.key.is_alike(key) and not isinstance(row.tile, LibraryTile)
    ]
    return list(dict.fromkeys([*preferred, *measured]))


def make_specimen(
    name: str,
    kernel: Any,
    problem: MatmulProblem,
    dtype_name: str,
    constexprs: Mapping[str, Any],
    descriptors: Mapping[str, tuple[int, int]],
    **rest: Any,
) -> Specimen:
    """The specimen of a kernel for a problem whose sizes and strides are multiples of 16.

    descriptors: rows and columns of the tiles that the hardware copies, by argument; those not given are None.
    rest: further fields of Specimen.
    """
    dtype = DTYPES[dtype_name]
    element, out_element = dtype.triton_name, DTYPES[dtype.out_name].triton_name
    absent = {
        *(() if problem.has_bias else ("bias_ptr",)),
        *(() if problem.has_residual else ("residual_ptr",)),
        *(() if problem.scaling != "none" else ("a_scale_ptr", "weight_scale_ptr")),
    }
    signature, missing = {}, {}
    for argument in kernel.arg_names:
        if argument in constexprs:
            continue
        if argument in absent or (argument.endswith("_desc") and argument not in descriptors):
            missing[argument] = None
        elif argument in descriptors:
            rows, columns = descriptors[argument]
            kind = out_element if argument == "out_desc" else element
            signature[argument] = f"tensordesc<{kind}[{rows}, {columns}]>"
        elif argument in OPERANDS:
            signature[argument] = f"*{element}"
        elif argument in LIKE_OUT:
            signature[argument] = f"*{out_element}"
        elif argument in FLOATS:
            signature[argument] = "*fp32"
        else:
            signature[argument] = "i32"
    return Specimen(
        name=name,
        kernel=kernel,
        signature=signature,
        constexprs={**constexprs, **missing},
        aligned=frozenset(name for name, kind in signature.items() if kind[0] == "*" or name in ALIGNED_NUMBERS),
        needs_bulk_copies=bool(descriptors),
        **rest,
    )
