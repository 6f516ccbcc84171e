"""What the compile report compiles for dense matmul."""

from __future__ import annotations

from functools import partial

from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.dense.kernel import constants, matmul_kernel, out_part
from tokenwatt_kernels.matmul.dense.tiles import FAMILY, DenseTile
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.matmul.specimen import family_specimens, make_specimen
from tokenwatt_kernels.targets import Target

SIZES = {"256 rows": (256, 4096, 4096), "4096 rows": (4096, 4096, 4096), "unaligned": (4096, 4100, 4100)}


def _specimens(problem: MatmulProblem, dtype_name: str, tile: DenseTile, target: Target) -> list[Specimen]:
    promotes = problem.promotes(dtype_name, target.capability)
    descriptors = {}
    if tile.descriptors:
        descriptors = {
            "a_desc": (tile.block_m, tile.block_k),
            "weight_desc": (tile.block_n, tile.block_k),
            "out_desc": out_part(tile, problem.activation),
        }
    specimen = make_specimen(
        f"matmul {dtype_name} {problem.name}",
        matmul_kernel,
        problem,
        dtype_name,
        constants(tile, problem.activation, problem.scaling, promotes=promotes),
        descriptors,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        needs_tensor_cores=DTYPES[dtype_name].has_tensor_core_path,
        needs_warpgroup_mma=tile.descriptors,
        configuration=tile.name,
        max_registers=tile.registers,
    )
    return [specimen]


specimens = partial(family_specimens, FAMILY, SIZES, "4096 rows", "4096 rows", _specimens)
