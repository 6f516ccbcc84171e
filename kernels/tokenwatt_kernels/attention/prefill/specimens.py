"""What the compile report compiles for prefill attention."""

from __future__ import annotations

from tokenwatt_kernels.attention.heads import key_parts, value_block
from tokenwatt_kernels.attention.prefill.kernel import MAX_REGISTERS, pipeline_stages, prefill_kernel
from tokenwatt_kernels.attention.prefill.problems import chunks, prompts
from tokenwatt_kernels.attention.prefill.tiles import default, key_of
from tokenwatt_kernels.attention.prefill.warp_specialised import NUM_WARPS, compile_inputs, warp_specialised_kernel
from tokenwatt_kernels.attention.prefill.warp_specialised_tiles import CAPABILITY, TILES
from tokenwatt_kernels.attention.problem import AttentionProblem
from tokenwatt_kernels.attention.specimen import compilable, make_specimen, shift_for
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.targets import Target

# Every head size, and every option at the size of a model that has it.
PROBLEMS = (
    prompts("D64", (1,), 4, 1, 64),
    prompts("D96", (1,), 1, 1, 96),
    prompts("D128", (1,), 4, 1, 128, checks_lse=True),
    prompts("D192/128", (1,), 1, 1, 192, value_dim=128),
    prompts("D256", (1,), 2, 1, 256),
    prompts("D128 not causal", (1,), 4, 1, 128, causal=False),
    prompts("D64 window sinks", (1,), 8, 1, 64, window=128, has_sinks=True),
    prompts("D128 window", (1,), 4, 1, 128, window=4096),
    prompts("D256 softcap", (1,), 2, 1, 256, softcap=50.0),
    chunks("D128 page 16", (1,), (1,), 4, 1, 128, page_size=16),
    chunks("D128 page 128", (1,), (1,), 4, 1, 128, page_size=128),
    chunks("D128 page 128 fp8 cache", (1,), (1,), 4, 1, 128, page_size=128, kv_dtype="float8_e4m3fn"),
    chunks("D128 page 16 fp8 cache", (1,), (1,), 4, 1, 128, page_size=16, kv_dtype="float8_e4m3fn"),
)
FULL_PRECISION = {"D64", "D128", "D256", "D128 page 16"}


def specimens(target: Target, dtype_names: tuple[str, ...]) -> list[Specimen]:
    """The kernel with the tile that `choose` gives, for each dtype and problem that the target has.

    And the warp-specialised kernel where it exists: there it may be taken if a table says so.
    """
    return [
        _specimen(problem, dtype_name, target)
        for dtype_name in dtype_names
        for problem in PROBLEMS
        if compilable(problem, DTYPES[dtype_name], target)
        and (dtype_name != "float32" or problem.name in FULL_PRECISION)
        and not (dtype_name == "float8_e4m3fn" and problem.kv_dtype)
    ] + [
        _warp_specialised(dtype_name, head_dim, causal=causal)
        for dtype_name in dtype_names
        if target.capability == CAPABILITY and dtype_name in ("bfloat16", "float16")
        for head_dim in TILES
        for causal in (True, False)
    ]


def _warp_specialised(dtype_name: str, head_dim: int, *, causal: bool) -> Specimen:
    tile = TILES[head_dim]
    signature, constexprs, aligned = compile_inputs(dtype_name, head_dim, causal, True, tile)
    return Specimen(
        name=f"prefill {dtype_name} D{head_dim} ws{'' if causal else ' not causal'}",
        kernel=warp_specialised_kernel,
        signature=signature,
        constexprs=constexprs,
        aligned=aligned,
        num_warps=NUM_WARPS,
        num_stages=1,
        needs_tensor_cores=True,
        needs_bulk_copies=True,
        needs_warpgroup_mma=True,
        configuration=tile.name,
    )


def _specimen(problem: AttentionProblem, dtype_name: str, target: Target) -> Specimen:
    dtype = DTYPES[dtype_name]
    tile = default(key_of(problem, dtype_name), target.capability)
    main, tail = key_parts(problem.head_dim)
    return make_specimen(
        f"prefill {dtype_name} {problem.name}",
        prefill_kernel,
        problem,
        dtype,
        {
            "GROUP": problem.group,
            "KEY_MAIN": main,
            "KEY_TAIL": tail,
            "VALUE_DIM": problem.values,
            "V_BLOCK": value_block(problem.values),
            "PAGE_SIZE": problem.page_size,
            "DESCRIPTORS": tile.descriptors,
            "LIE_ALIKE": problem.values == problem.head_dim,
            "CAUSAL": problem.causal,
            "WINDOWED": problem.window is not None,
            "CAPPED": problem.softcap is not None,
            "WEIGHT_SHIFT": shift_for(problem, dtype_name),
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "EDGE_N": tile.edge_n,
        },
        tile.block_n,
        configuration=tile.name,
        num_warps=tile.num_warps,
        num_stages=pipeline_stages(tile.num_stages, problem.page_size),
        descriptors=tile.descriptors,
        warpgroup=dtype.has_tensor_core_path,
        max_registers=MAX_REGISTERS,
    )
