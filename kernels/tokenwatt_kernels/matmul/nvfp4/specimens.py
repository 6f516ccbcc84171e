"""What the compile report compiles for matmuls of NVFP4 numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tokenwatt_kernels import following, tables
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.matmul.nvfp4.kernel import nvfp4_kernel
from tokenwatt_kernels.matmul.nvfp4.problems import GROUP, Nvfp4Problem, takes
from tokenwatt_kernels.matmul.nvfp4.tiles import FAMILY, default, key_of
from tokenwatt_kernels.matmul.parts import constants
from tokenwatt_kernels.matmul.split_tile import SplitTile
from tokenwatt_kernels.targets import Target

DTYPE_NAME = "bfloat16"
TYPES = {
    "a_ptr": "*u8",
    "weight_ptr": "*u8",
    "a_group_ptr": "*fp8e4nv",
    "weight_group_ptr": "*fp8e4nv",
    "a_scale_ptr": "*fp32",
    "weight_scale_ptr": "*fp32",
    "partial_ptr": "*fp32",
    "arrivals_ptr": "*i32",
    "out_ptr": "*bf16",
    "bias_ptr": "*bf16",
    "residual_ptr": "*bf16",
}
ROWS = (16, 32, 64, 128)


def specimens(target: Target, dtype_names: tuple[str, ...]) -> list[Specimen]:
    """The kernel with the tile of a GPU without a table, for each number of rows.

    And unlisted, with all ends of a product, rows that are not aligned, and the tiles of the tables of such GPUs. What
    adds up the parts is compiled with `skinny`.
    """
    if DTYPE_NAME not in dtype_names or not takes(_rows(16), DTYPE_NAME, target.capability):
        return []
    listed = [_specimen(_rows(rows), tile, target) for rows in ROWS for tile in _tiles(_rows(rows), target)[:1]]
    unlisted = [
        _specimen(replace(problem, name=f"{problem.name} {tile.name}"), tile, target)
        for problem in _unlisted()
        for tile in _tiles(problem, target)
    ]
    return listed + [replace(specimen, is_listed=False) for specimen in unlisted]


def _rows(rows: int) -> Nvfp4Problem:
    return Nvfp4Problem(f"{rows} rows", rows, 4096, 4096)


def _unlisted() -> Iterator[Nvfp4Problem]:
    for rows in ROWS:
        for k, kind in ((4096, ""), (4112, " unaligned")):
            problem = replace(_rows(rows), name=f"{rows} rows{kind} swiglu", k=k)
            yield replace(problem, activation="swiglu", has_bias=True, has_residual=True)


def _tiles(problem: Nvfp4Problem, target: Target) -> list[SplitTile]:
    """The tiles that a GPU of this generation may launch for a problem like this, the default first."""
    key = key_of(problem, DTYPE_NAME)
    measured = [
        row.tile
        for _, row in tables.rows_for(target.capability, FAMILY)
        if replace(row.key, columns=key.columns, terms=key.terms) == key
    ]
    return list(dict.fromkeys([default(key, target.capability), *measured]))


def _specimen(problem: Nvfp4Problem, tile: SplitTile, target: Target) -> Specimen:
    byte_columns, groups = tile.block_k // 2, tile.block_k // GROUP
    descriptors = {
        "a_desc": f"tensordesc<u8[{tile.block_m}, {byte_columns}]>",
        "weight_desc": f"tensordesc<u8[{tile.block_n}, {byte_columns}]>",
        "a_group_desc": f"tensordesc<fp8e4nv[{tile.block_m}, {groups}]>",
        "weight_group_desc": f"tensordesc<fp8e4nv[{tile.block_n}, {groups}]>",
    }
    constexprs = {
        **constants(tile, problem.activation),
        "JOINS": tile.joins,
        **following.constants(target),
        "DESCRIPTORS": tile.descriptors,
        "NATIVE": True,
    }
    missing = dict.fromkeys(
        [
            *(() if problem.has_bias else ("bias_ptr",)),
            *(() if problem.has_residual else ("residual_ptr",)),
            *(() if tile.descriptors else descriptors),
            *(() if tile.joins else ("arrivals_ptr",)),
        ]
    )
    types = {**TYPES, **descriptors}
    signature = {
        name: types.get(name, "i32")
        for name in nvfp4_kernel.arg_names
        if name not in constexprs and name not in missing
    }
    # Groups of a row are as many bytes as 16 terms: their rows are aligned where the hardware copies them.
    unaligned = {"M"} if tile.descriptors else {"M", "a_group_stride_m", "weight_group_stride_n"}
    return Specimen(
        name=f"nvfp4 {problem.name}",
        kernel=nvfp4_kernel,
        signature=signature,
        constexprs={**constexprs, **missing},
        aligned=frozenset(name for name, kind in signature.items() if "desc" not in kind and name not in unaligned),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        needs_tensor_cores=True,
        needs_bulk_copies=tile.descriptors,
        configuration=tile.name,
        max_registers=tile.registers,
    )
