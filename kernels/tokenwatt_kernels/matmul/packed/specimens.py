"""What the compile report compiles for matmuls with packed weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tokenwatt_kernels import following, tables
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.packed.formats import CHUNK, FORMATS, WORDS
from tokenwatt_kernels.matmul.packed.kernel import packed_kernel
from tokenwatt_kernels.matmul.packed.problems import DTYPE_NAMES, PackedProblem, takes
from tokenwatt_kernels.matmul.packed.tiles import FAMILY, default, key_of
from tokenwatt_kernels.matmul.parts import COMBINE_WARPS, combine_kernel, combined_columns, constants
from tokenwatt_kernels.matmul.split_tile import SplitTile
from tokenwatt_kernels.targets import Target

TYPES = {"words_ptr": "*i16", "scales_ptr": "*i32", "partial_ptr": "*fp32", "arrivals_ptr": "*i32"}
ALIGNED_NUMBERS = {"N", "K", "a_stride_m", "out_stride_m", "residual_stride_m"}
ROWS = (16, 32, 64, 128)


def specimens(target: Target, dtype_names: tuple[str, ...]) -> list[Specimen]:
    """Both kernels with the tile of a GPU without a table, for each format and number of rows.

    And unlisted, all ends of a product, rows that are not aligned, every tile that may be chosen, and those of the
    tables of such GPUs. float16 differs in the instructions that unpack alone, so it has no unlisted ones.
    """
    found = []
    for dtype_name in filter(DTYPE_NAMES.__contains__, dtype_names):
        for problem in _listed():
            if takes(problem, dtype_name, target.capability):
                found.append(_packed(problem, dtype_name, _tiles(problem, dtype_name, target)[0], target))
        ends = PackedProblem("16 rows ends", 16, 4096, 4096, has_bias=True, has_residual=True)
        found.append(_combine(ends, dtype_name, _tiles(ends, dtype_name, target)[0], target))
        if dtype_name == "bfloat16":
            unlisted = [
                _packed(replace(problem, name=f"{problem.name} {tile.name}"), dtype_name, tile, target)
                for problem in _unlisted()
                for tile in _tiles(problem, dtype_name, target)
            ]
            found += [replace(specimen, is_listed=False) for specimen in unlisted]
    return found


def _listed() -> Iterator[PackedProblem]:
    for number_format in FORMATS:
        for rows in ROWS:
            yield PackedProblem(f"{number_format} {rows} rows", rows, 4096, 4096, number_format)


def _unlisted() -> Iterator[PackedProblem]:
    """Ends and the lack of hardware copies change the code; one gated activation stands for all."""
    for problem in _listed():
        for size, kind in ((4096, ""), (4098, " unaligned")):
            sized = replace(problem, name=problem.name + kind, n=size)
            yield replace(sized, name=f"{sized.name} swiglu", activation="swiglu", has_bias=True, has_residual=True)
            if kind:
                yield sized


def _tiles(problem: PackedProblem, dtype_name: str, target: Target) -> list[SplitTile]:
    """The tiles that a GPU of this generation may launch for a problem like this, the default first."""
    key = key_of(problem, dtype_name)
    measured = [
        row.tile
        for _, row in tables.rows_for(target.capability, FAMILY)
        if replace(row.key, columns=key.columns, terms=key.terms) == key
    ]
    return list(dict.fromkeys([default(key, target.capability), *measured]))


def _packed(problem: PackedProblem, dtype_name: str, tile: SplitTile, target: Target) -> Specimen:
    kind = DTYPES[dtype_name].triton_name
    descriptors = {}
    if tile.descriptors:
        descriptors = {
            "a_desc": f"tensordesc<{kind}[{tile.block_m}, {CHUNK}]>",
            "words_desc": f"tensordesc<i16[{tile.block_n}, {WORDS}]>",
            "scales_desc": f"tensordesc<i32[1, {tile.block_n}]>",
        }
    further = {"DESCRIPTORS": tile.descriptors, "NUMBER_FORMAT": problem.number_format, "PTX": True}
    return _specimen(
        f"packed {dtype_name} {problem.name}",
        packed_kernel,
        problem,
        dtype_name,
        {**constants(tile, problem.activation), "JOINS": tile.joins, **following.constants(target), **further},
        {**TYPES, **descriptors},
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        needs_tensor_cores=True,
        needs_bulk_copies=tile.descriptors,
        needs_warpgroup_mma=tile.descriptors,
        configuration=tile.name,
        max_registers=tile.registers,
    )


def _combine(problem: PackedProblem, dtype_name: str, tile: SplitTile, target: Target) -> Specimen:
    further = {"SCALED": False, **following.constants(target), "BLOCK_C": combined_columns(tile)}
    return _specimen(
        f"packed combine {dtype_name} {problem.name}",
        combine_kernel,
        problem,
        dtype_name,
        {**constants(tile, problem.activation), **further},
        TYPES,
        num_warps=COMBINE_WARPS,
        num_stages=3,
        needs_tensor_cores=False,
    )


def _specimen(
    name: str,
    kernel: Any,
    problem: PackedProblem,
    dtype_name: str,
    constexprs: dict[str, Any],
    types: dict[str, str],
    **rest: Any,
) -> Specimen:
    """types: of arguments that are neither i32 nor pointers to the dtype; a descriptor without one is None."""
    absent = {
        *(() if problem.has_bias else ("bias_ptr",)),
        *(() if problem.has_residual else ("residual_ptr",)),
        *("a_scale_ptr", "weight_scale_ptr"),
        *(() if constexprs.get("JOINS") else ("arrivals_ptr",)),
    }
    signature, missing = {}, {}
    for argument in kernel.arg_names:
        if argument in constexprs:
            continue
        if argument in absent or (argument.endswith("_desc") and argument not in types):
            missing[argument] = None
        elif argument in types:
            signature[argument] = types[argument]
        else:
            signature[argument] = f"*{DTYPES[dtype_name].triton_name}" if argument.endswith("_ptr") else "i32"
    aligned = ALIGNED_NUMBERS if problem.n % 16 == 0 else ALIGNED_NUMBERS - {"N", "out_stride_m", "residual_stride_m"}
    return Specimen(
        name=name,
        kernel=kernel,
        signature=signature,
        constexprs={**constexprs, **missing},
        aligned=frozenset(name for name, kind in signature.items() if kind[0] == "*" or name in aligned),
        **rest,
    )
