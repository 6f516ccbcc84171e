"""What the compile report compiles for matmul of few rows."""

from __future__ import annotations

from functools import partial

from tokenwatt_kernels import following
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.parts import COMBINE_WARPS, combine_kernel, combined_columns, constants
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.matmul.skinny.kernel import BY_ROW, split_kernel
from tokenwatt_kernels.matmul.skinny.tiles import FAMILY
from tokenwatt_kernels.matmul.specimen import family_specimens, make_specimen
from tokenwatt_kernels.matmul.split_tile import SplitTile
from tokenwatt_kernels.targets import Target

SIZES = {
    f"{rows} rows{suffix}": (rows, size, size)
    for suffix, size in (("", 4096), (" unaligned", 4100))
    for rows in (16, 32, 64)
}


def _specimens(problem: MatmulProblem, dtype_name: str, tile: SplitTile, target: Target) -> list[Specimen]:
    found = [_split(problem, dtype_name, tile, target)]
    # The other launch knows nothing of the rest.
    if problem.n % tile.block_n == 0 and problem.scaling != "block" and not (problem.fast_accumulation or tile.joins):
        found.append(_combine(problem, dtype_name, tile, target))
    return found


def _split(problem: MatmulProblem, dtype_name: str, tile: SplitTile, target: Target) -> Specimen:
    descriptors = {}
    if tile.descriptors:
        descriptors = {"a_desc": (tile.block_m, tile.block_k), "weight_desc": (tile.block_n, tile.block_k)}
    further = {
        "DESCRIPTORS": tile.descriptors,
        "SCALED": problem.scaling in BY_ROW,
        "BLOCKED": problem.scaling == "block",
        "PROMOTES": problem.promotes(dtype_name, target.capability),
    }
    return make_specimen(
        f"skinny {dtype_name} {problem.name}",
        split_kernel,
        problem,
        dtype_name,
        {**constants(tile, problem.activation), "JOINS": tile.joins, **following.constants(target), **further},
        descriptors,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        needs_tensor_cores=DTYPES[dtype_name].has_tensor_core_path,
        needs_warpgroup_mma=tile.descriptors,
        configuration=tile.name,
        max_registers=tile.registers,
    )


def _combine(problem: MatmulProblem, dtype_name: str, tile: SplitTile, target: Target) -> Specimen:
    return make_specimen(
        f"skinny combine {dtype_name} {problem.name}",
        combine_kernel,
        problem,
        dtype_name,
        {
            **constants(tile, problem.activation),
            "SCALED": problem.scaling in BY_ROW,
            **following.constants(target),
            "BLOCK_C": combined_columns(tile),
        },
        {},
        num_warps=COMBINE_WARPS,
        num_stages=3,
        needs_tensor_cores=False,
    )


specimens = partial(family_specimens, FAMILY, SIZES, "16 rows", "64 rows", _specimens)
