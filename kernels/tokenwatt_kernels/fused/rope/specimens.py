"""What the compile report compiles for rotary embedding."""

from __future__ import annotations

from dataclasses import replace

from tokenwatt_kernels import following, tables
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.fused.rope.kernel import MAX_REGISTERS, blocks, rope_kernel
from tokenwatt_kernels.fused.rope.problems import DTYPE_NAMES, FLOAT8, RopeProblem, takes
from tokenwatt_kernels.fused.rope.tiles import FAMILY, RopeTile, default, key_of
from tokenwatt_kernels.pairwise import every_pair
from tokenwatt_kernels.targets import Target

LATENT = RopeProblem(
    "latent 512 and 64", 1, 128, 1, 64, value_dim=512, interleaved=True, is_latent=True, page_size=64
)  # fmt: skip
PROBLEMS = (
    RopeProblem("D128", 1, 32, 8, 128),
    RopeProblem("D128 packed", 1, 32, 8, 128, is_packed=True),
    RopeProblem("D128 norm", 1, 64, 8, 128, has_norm=True),
    RopeProblem("D128 norm fp8 cache", 1, 64, 8, 128, has_norm=True, kv_dtype=FLOAT8, scales="head"),
    RopeProblem("D256 norm offset", 1, 8, 4, 256, has_norm=True, unit_offset=True),
    LATENT,
)
DIMS = ((64, 64), (96, 72), (128, 128), (256, 64))
BFLOAT16 = "bfloat16"


def _combined(
    dims: tuple[int, int], interleaved: bool, is_packed: bool, has_norm: bool, kv_dtype: str | None
) -> RopeProblem:
    dim, rotary = dims
    words = (" interleaved" * interleaved, " packed" * is_packed, " norm" * has_norm, " fp8 cache" * bool(kv_dtype))
    return RopeProblem(
        f"D{dim}/{rotary}{''.join(words)}", 1, 32, 8, dim, rotary_dim=rotary, interleaved=interleaved,
        has_norm=has_norm, is_packed=is_packed, kv_dtype=kv_dtype,
    )  # fmt: skip


FULL = tuple(
    _combined(dims, interleaved, True, True, kv_dtype)
    for dims, interleaved, kv_dtype in every_pair(DIMS, (False, True), (None, FLOAT8))
)
COMBINATIONS = (
    *FULL,
    *(
        _combined(DIMS[-1], *options)
        for options in every_pair((False, True), (False, True), (False, True), (None, FLOAT8))
    ),
    replace(LATENT, name="latent 512 and 64 fp8 cache", kv_dtype=FLOAT8),
    RopeProblem("D128 without a cache", 1, 32, 8, 128, page_size=0),
)
"""Every head with all options, and every two options with the widest head, which asks for the most."""
OTHERS = (*(problem for problem in FULL if problem.kv_dtype is None), LATENT)
"""Of dtypes other than bfloat16, which differ in how numbers are read and written."""
FP32_POINTERS = {"cos_ptr", "sin_ptr", "k_scale_ptr", "v_scale_ptr"}
UNALIGNED = {"k_scale_stride", "v_scale_stride", "cos_stride_p", "sin_stride_p"}


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
                problem = RopeProblem(name, 1, 32, 8, row.key.block_dim, has_norm=True)
                found.append(replace(_specimen(problem, dtype_name, row.tile, target), is_listed=False))
    return found


def _specimen(problem: RopeProblem, dtype_name: str, tile: RopeTile, target: Target) -> Specimen:
    kind = DTYPES[dtype_name].triton_name
    absent = _absent(problem)
    constexprs = {
        **dict.fromkeys(absent),
        **following.constants(target),
        "PAGE_SIZE": problem.page_size or 1,
        "INTERLEAVED": problem.interleaved,
        "UNIT_OFFSET": problem.unit_offset,
        **blocks(
            problem.query_heads, problem.kv_heads, problem.head_dim, problem.values, problem.rotary // 2,
            appends=bool(problem.page_size or problem.is_packed), tile=tile,
        ),
    }  # fmt: skip
    cache = kind if problem.kv_dtype is None else DTYPES[problem.kv_dtype].triton_name
    names = [name for name in rope_kernel.arg_names if name not in constexprs]
    signature = {name: _type(name, kind, cache, problem) for name in names}
    return Specimen(
        name=f"rope {dtype_name} {problem.name}",
        kernel=rope_kernel,
        signature=signature,
        constexprs=constexprs,
        aligned=frozenset(
            name for name, kind in signature.items() if kind[0] == "*" or (kind == "i32" and name not in UNALIGNED)
        ),
        num_warps=tile.num_warps,
        max_registers=MAX_REGISTERS,
        num_stages=3,
        needs_tensor_cores=False,
        configuration=tile.name,
    )


def _absent(problem: RopeProblem) -> list[str]:
    """Arguments that a call for this problem leaves out."""
    absent = []
    if not problem.is_packed:
        absent += ["k_out_ptr", "v_out_ptr"]
    if not problem.page_size:
        absent += ["k_cache_ptr", "v_cache_ptr", "slots_ptr"]
    if not problem.has_norm:
        absent += ["q_weight_ptr", "k_weight_ptr"]
    if problem.kv_dtype is None:
        absent += ["k_scale_ptr", "v_scale_ptr"]
    return absent


def _type(name: str, kind: str, cache: str, problem: RopeProblem) -> str:
    if name in FP32_POINTERS:
        return "*fp32"
    if name in ("positions_ptr", "slots_ptr"):
        return f"*{problem.index_name.replace('int', 'i')}"
    if name in ("k_cache_ptr", "v_cache_ptr"):
        return f"*{cache}"
    if name.endswith("_ptr"):
        return f"*{kind}"
    return "fp32" if name == "eps" else "i32"
