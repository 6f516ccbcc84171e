"""What the compile report compiles for the choice of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tokenwatt_kernels import following, tables
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.fused.top_k.kernel import SELECT_REGISTERS, part_kernel, select_kernel, shape
from tokenwatt_kernels.fused.top_k.problems import DTYPE_NAMES, TopKProblem
from tokenwatt_kernels.fused.top_k.tiles import FAMILY, TopKTile, default, key_of
from tokenwatt_kernels.targets import Target

PROBLEMS = (
    TopKProblem("128256 k1", 1, 128_256, 1),
    TopKProblem("128256 k64", 1, 128_256, 64),
    TopKProblem("262144 k64 softcap temperature", 1, 262_144, 64, softcap=30.0, has_temperature=True),
)
COMBINATIONS = tuple(
    TopKProblem(f"50257 k{k} softcap temperature", 1, 50_257, k, softcap=30.0, has_temperature=True)
    for k in (1, 16, 128)
)
"""Every tile with all options and rows that are not aligned. For dtypes other than bfloat16, all there is."""
BFLOAT16 = "bfloat16"


def specimens(target: Target, dtype_names: tuple[str, ...]) -> list[Specimen]:
    """Both kernels with the tile of a GPU without a table: listed problems, combinations, and every measured tile."""
    found = []
    for dtype_name in dtype_names:
        if dtype_name not in DTYPE_NAMES:
            continue
        listed, unlisted = (PROBLEMS, COMBINATIONS) if dtype_name == BFLOAT16 else (COMBINATIONS, ())
        chosen = [(problem, True) for problem in listed] + [(problem, False) for problem in unlisted]
        for problem, is_listed in chosen:
            tile = default(key_of(problem, dtype_name), target.capability)
            found += [replace(made, is_listed=is_listed) for made in _specimens(problem, dtype_name, tile, target)]
        for name, row in tables.rows_for(target.capability, FAMILY):
            if row.key.element_bytes == DTYPES[dtype_name].bytes:
                problem = TopKProblem(name, 1, 151_936, row.key.block_k)
                found += [replace(made, is_listed=False) for made in _specimens(problem, dtype_name, row.tile, target)]
    return found


def _specimens(problem: TopKProblem, dtype_name: str, tile: TopKTile, target: Target) -> Iterator[Specimen]:
    kind = DTYPES[dtype_name].triton_name
    sizes = {
        **shape(problem.vocabulary, problem.k, tile),
        "CAPPED": problem.softcap is not None,
        **following.constants(target),
    }
    types = {
        "logits_ptr": f"*{kind}",
        "largest_ptr": f"*{kind}",
        "indices_ptr": "*i32",
        "softcap": "fp32",
        **dict.fromkeys(("log_sum_ptr", "part_log_sum_ptr", "temperature_ptr", "values_ptr"), "*fp32"),
    }
    for prefix, kernel, warps in (("part", part_kernel, tile.num_warps), ("select", select_kernel, tile.select_warps)):
        constexprs: dict[str, int | None] = {name: size for name, size in sizes.items() if name in kernel.arg_names}
        if not problem.has_temperature:
            constexprs["temperature_ptr"] = None
        signature = {name: types.get(name, "i32") for name in kernel.arg_names if name not in constexprs}
        aligned = {name for name, kind in signature.items() if kind[0] == "*"}
        if problem.vocabulary % 16 == 0:
            aligned.add("logits_stride_b")
        yield Specimen(
            name=f"top-k {prefix} {dtype_name} {problem.name}",
            kernel=kernel,
            signature=signature,
            constexprs=constexprs,
            aligned=frozenset(aligned),
            num_warps=warps,
            num_stages=3,
            needs_tensor_cores=False,
            configuration=tile.name,
            max_registers=SELECT_REGISTERS if kernel is select_kernel else None,
        )
