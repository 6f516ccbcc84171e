"""What the compile report compiles for the families of one weight, and the type of every argument of a kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from tokenwatt_kernels import tables
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.families import part
from tokenwatt_kernels.matmul.activations import ACTIVATIONS, is_gated
from tokenwatt_kernels.matmul.library_tile import LibraryTile
from tokenwatt_kernels.matmul.problem import DTYPE_NAMES, FLOAT8, MatmulProblem, takes
from tokenwatt_kernels.pairwise import every_pair
from tokenwatt_kernels.targets import Target

OPERANDS = {"a_ptr", "weight_ptr"}
LIKE_OUT = {"out_ptr", "bias_ptr", "residual_ptr"}
FLOATS = {"a_scale_ptr", "weight_scale_ptr", "partial_ptr"}
ALIGNED_NUMBERS = {"N", "K", "a_stride_m", "weight_stride_n", "out_stride_m", "residual_stride_m"}

TRIED = ("bfloat16", FLOAT8)
"""Dtypes of all options: float16 is compiled as bfloat16 is, and float32 has few tiles."""
SCALINGS = {FLOAT8: (("token_channel", True), ("token_channel", False), ("block", False))}
"""Ways to scale that change the code, and whether sums stay in the tensor cores."""
UNSCALED = ("none", False)

Sizes = Mapping[str, tuple[int, int, int]]
Make = Callable[[MatmulProblem, str, Any, Target], list[Specimen]]
"""The kernels of a launch for a problem, a dtype and a tile."""


def family_specimens(
    family: str,
    sizes: Sizes,
    main: str,
    most: str,
    make: Make,
    target: Target,
    dtype_names: tuple[str, ...],
) -> list[Specimen]:
    """What `make` gives with the tile of a GPU without a table, for each TRIED dtype and listed problem.

    And every tile that is chosen for some size, and those of the tables of such GPUs, with all options at once; and
    every two options with the tile that asks for the most. Other dtypes have the tiles of the first with all options.
    sizes: M, N and K by name. main: those that the options are listed for. most: those of the tile that asks for most.
    """
    tiles = part(family, "tiles")
    found = []
    for dtype_name in dtype_names:
        if dtype_name not in DTYPE_NAMES:
            continue
        full = list(_full(sizes, dtype_name))
        for problem in _listed(sizes, main) if dtype_name in TRIED else full:
            if takes(problem, dtype_name, target.capability):
                tile = tiles.default(tiles.key_of(problem, dtype_name), target.capability)
                found += make(problem, dtype_name, tile, target)
        if dtype_name not in TRIED:
            continue
        unlisted = [(problem, tile) for problem in full for tile in _preferred(family, problem, dtype_name, target)]
        unlisted += [
            (problem, tile)
            for problem in (*full, *_full(sizes, dtype_name, "none"))
            for tile in _measured(family, problem, dtype_name, target)
        ]
        unlisted += [
            (problem, tiles.default(tiles.key_of(problem, dtype_name), target.capability))
            for problem in _pairs(most, sizes[most], dtype_name)
        ]
        for problem, tile in unlisted:
            if takes(problem, dtype_name, target.capability):
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


def _full(sizes: Sizes, dtype_name: str, activation: str = "swiglu") -> Iterator[MatmulProblem]:
    """Every size and way to scale with an activation, bias and residual."""
    for name, size in sizes.items():
        for scaling in SCALINGS.get(dtype_name, (UNSCALED,)):
            yield _combined(name, size, activation, True, scaling)


def _pairs(name: str, size: tuple[int, int, int], dtype_name: str) -> Iterator[MatmulProblem]:
    """Every two options that change the code; one gated activation stands for all."""
    for activation, ends, scaling in every_pair(
        ("none", "swiglu"), (False, True), SCALINGS.get(dtype_name, (UNSCALED,))
    ):
        yield _combined(name, size, activation, ends, scaling)


def _combined(
    name: str, size: tuple[int, int, int], activation: str, ends: bool, scaling: tuple[str, bool]
) -> MatmulProblem:
    """The problem of one choice of options. ends: whether it has bias and residual."""
    words = [activation, *(["ends"] if ends else []), scaling[0], *(["fast"] if scaling[1] else [])]
    return MatmulProblem(" ".join([name, *words]), *size, activation, ends, ends, *scaling)


def _preferred(family: str, problem: MatmulProblem, dtype_name: str, target: Target) -> list[Any]:
    """The tiles that a GPU without a table may launch for a problem like this, of whatever size."""
    tiles = part(family, "tiles")
    key = tiles.key_of(problem, dtype_name)
    return [tile for tile in tiles.preferred(key, target.capability) if tiles.is_valid(tile, key, target.capability)]


def _measured(family: str, problem: MatmulProblem, dtype_name: str, target: Target) -> list[Any]:
    """The tiles of ours in tables of such GPUs for a problem like this, of whatever size."""
    key = part(family, "tiles").key_of(problem, dtype_name)
    return [
        row.tile
        for _, row in tables.rows_for(target.capability, family)
        if row.key.is_alike(key) and not isinstance(row.tile, LibraryTile)
    ]


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
        *(() if constexprs.get("JOINS") else ("arrivals_ptr",)),
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
        elif argument == "arrivals_ptr":
            signature[argument] = "*i32"
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
