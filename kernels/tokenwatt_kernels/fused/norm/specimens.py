"""What the compile report compiles for RMS normalisation."""

from __future__ import annotations

from dataclasses import replace

from tokenwatt_kernels import following, tables
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.fused.norm.kernel import norm_kernel
from tokenwatt_kernels.fused.norm.problems import DTYPE_NAMES, NormProblem, Scales, takes
from tokenwatt_kernels.fused.norm.tiles import FAMILY, NormTile, block_width, default, key_of, most_registers
from tokenwatt_kernels.pairwise import every_pair
from tokenwatt_kernels.targets import Target

PROBLEMS = (
    NormProblem("4096 residual", 1, 4096, has_residual=True),
    NormProblem("8192 residual", 1, 8192, has_residual=True),
    NormProblem("16384 residual", 1, 16_384, has_residual=True),
    NormProblem("heads of 128", 1, 128, heads=40),
    NormProblem("4096 residual fp8 token", 1, 4096, has_residual=True, scales="token"),
    NormProblem("7168 residual fp8 block", 1, 7168, has_residual=True, scales="block"),
    NormProblem("14336 to fp8 token", 1, 14_336, scales="token", has_norm=False),
)
WIDTHS = (128, 1024, 2560, 5120, 16_384)
SCALES: tuple[Scales, ...] = ("none", "tensor", "token", "block")
BFLOAT16 = "bfloat16"


def _combined(width: int, has_residual: bool, unit_offset: bool, scales: Scales) -> NormProblem:
    return NormProblem(
        f"{width} {'residual ' * has_residual}{scales}{' offset' * unit_offset}", 1, width,
        has_residual=has_residual, unit_offset=unit_offset, scales=scales,
    )  # fmt: skip


COMBINATIONS = (
    *(
        NormProblem(f"{WIDTHS[-1]} to fp8 {scales}", 1, WIDTHS[-1], scales=scales, has_norm=False)
        for scales in SCALES[2:]
    ),
    *(_combined(WIDTHS[-1], *options) for options in every_pair((False, True), (False, True), SCALES)),
    *(_combined(width, True, True, scales) for width in WIDTHS for scales in SCALES),
)
"""Every two options with the longest row, which asks for the most, and every tile with all options and every answer."""
OTHERS = (
    *(_combined(width, True, True, "none") for width in WIDTHS),
    *(_combined(WIDTHS[-1], True, True, scales) for scales in SCALES[1:]),
)
"""Of dtypes other than bfloat16, which differ in how numbers are read: every tile, and of the longest every answer."""


def specimens(target: Target, dtype_names: tuple[str, ...]) -> list[Specimen]:
    """The kernel with the tile of a GPU without a table: listed problems and combinations, and every measured tile."""
    found = []
    for dtype_name in dtype_names:
        if dtype_name not in DTYPE_NAMES:
            continue
        listed, unlisted = (PROBLEMS, COMBINATIONS) if dtype_name == BFLOAT16 else (OTHERS, ())
        chosen = [(problem, True) for problem in listed] + [(problem, False) for problem in unlisted]
        for problem, is_listed in chosen:
            if takes(problem, dtype_name, target.capability):
                tile = default(key_of(problem, dtype_name), target.capability)
                found.append(replace(_specimen(problem, dtype_name, tile, target), is_listed=is_listed))
        for name, row in tables.rows_for(target.capability, FAMILY):
            if row.key.element_bytes == DTYPES[dtype_name].bytes:
                problem = NormProblem(name, 1, row.key.block_width, has_residual=True)
                found.append(replace(_specimen(problem, dtype_name, row.tile, target), is_listed=False))
    return found


def _specimen(problem: NormProblem, dtype_name: str, tile: NormTile, target: Target) -> Specimen:
    kind = DTYPES[dtype_name].triton_name
    is_quantised = problem.scales != "none"
    pointers = {
        "x_ptr": f"*{kind}",
        "residual_ptr": f"*{kind}" if problem.has_residual else None,
        "weight_ptr": f"*{kind}" if problem.has_norm else None,
        "out_ptr": "*fp8e4nv" if is_quantised else f"*{kind}",
        "scale_ptr": "*fp32" if is_quantised else None,
    }
    strides = [f"{name}_stride_{axis}" for name in ("x", "residual", "out") for axis in "th"]
    given = {name: kind for name, kind in pointers.items() if kind is not None}
    return Specimen(
        name=f"norm {dtype_name} {problem.name}",
        kernel=norm_kernel,
        signature={**given, **dict.fromkeys(("rows", *strides, "scale_stride_t"), "i32"), "eps": "fp32"},
        constexprs={
            **{name: None for name, kind in pointers.items() if kind is None},
            "HEADS": problem.heads or 1,
            "WIDTH": problem.width,
            "UNIT_OFFSET": problem.unit_offset,
            "SCALES": problem.scales,
            "BLOCK_ROWS": tile.rows,
            "BLOCK_WIDTH": block_width(problem.width),
            **following.constants(target),
        },
        aligned=frozenset((*given, *strides)),
        num_warps=tile.num_warps,
        num_stages=3,
        needs_tensor_cores=False,
        configuration=tile.name,
        max_registers=most_registers(tile, key_of(problem, dtype_name)),
    )
