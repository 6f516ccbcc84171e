"""What the compile report compiles for prefill attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import torch

from tokenwatt_kernels import tables
from tokenwatt_kernels.attention.copies import LENGTHS
from tokenwatt_kernels.attention.heads import MIN_FLOAT8_PART, is_key_dim, key_parts, value_block
from tokenwatt_kernels.attention.prefill.kernel import max_registers, pipeline_stages, prefill_kernel, weight_shift
from tokenwatt_kernels.attention.prefill.problems import chunks, prompts
from tokenwatt_kernels.attention.prefill.tiles import FAMILY, PrefillKey, PrefillTile, default, key_of
from tokenwatt_kernels.attention.prefill.warp_specialised import NUM_WARPS, compile_inputs, warp_specialised_kernel
from tokenwatt_kernels.attention.prefill.warp_specialised_tiles import CAPABILITY, TILES
from tokenwatt_kernels.attention.problem import FLOAT8, AttentionProblem
from tokenwatt_kernels.attention.specimen import compilable, dtypes_of, make_specimen
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.pairwise import every_pair
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
OTHERS = {
    "float32": {"D64", "D128", "D256", "D128 page 16"},
    "float16": {"D64 window sinks", "D192/128", "D256 softcap", "D128 page 16", "D128 page 128 fp8 cache"},
}
"""Of PROBLEMS: float32 has few tiles, and float16 is compiled as bfloat16 is."""
BFLOAT16 = "bfloat16"
HEADS = ((64, 64), (96, 96), (128, 128), (192, 128), (256, 256))
KEYS = ((0, None), (16, None), (64, None), (16, FLOAT8), (64, FLOAT8))
"""Keys to a page, 0 for none, and their dtype: with the head, whatever a tile depends on."""


def _combinations() -> Iterator[AttentionProblem]:
    """Every tile with all options, and every two options with the widest head, which asks for the most."""
    for head, keys in product(HEADS, KEYS):
        yield _combined(head, *keys, True, True, True)
    for options in every_pair((False, True), (False, True), (False, True)):
        yield _combined(HEADS[-1], *KEYS[0], *options)


def _combined(
    head: tuple[int, int], page_size: int, kv_dtype: str | None, causal: bool, windowed: bool, capped: bool
) -> AttentionProblem:
    options: dict[str, Any] = {"causal": causal, "kv_dtype": kv_dtype, "checks_lse": True}
    words = [
        f"D{head[0]}/{head[1]}",
        *([f"page {page_size}"] if page_size else []),
        *(["fp8 cache"] if kv_dtype else []),
    ]
    if not causal:
        words.append("not causal")
    if windowed:
        words.append("window sinks")
        options |= {"window": 128, "has_sinks": True}
    if capped:
        words.append("softcap")
        options["softcap"] = 50.0
    if not page_size:
        return prompts(" ".join(words), (1,), 4, 1, head[0], value_dim=head[1], **options)
    return chunks(" ".join(words), (1,), (1,), 4, 1, head[0], value_dim=head[1], page_size=page_size, **options)


COMBINATIONS = tuple(_combinations())


def specimens(target: Target, dtype_names: tuple[str, ...]) -> list[Specimen]:
    """The kernel with the tile of a GPU without a table, for each dtype and problem that the target has.

    And the warp-specialised kernel where it exists: there it may be taken if a table says so. And in bfloat16 and
    float8 the combinations, and every tile of the tables of such GPUs.
    """
    listed = [
        _specimen(problem, dtype_name, default(key_of(problem, dtype_name), target.capability))
        for dtype_name in dtype_names
        for problem in PROBLEMS
        if _exists(problem, dtype_name, target) and problem.name in OTHERS.get(dtype_name, {problem.name})
    ] + [
        _warp_specialised(dtype_name, head_dim, causal=causal)
        for dtype_name in dtype_names
        if target.capability == CAPABILITY and dtype_name in ("bfloat16", "float16")
        for head_dim in TILES
        for causal in (True, False)
    ]
    unlisted = [
        (problem, dtype_name, default(key_of(problem, dtype_name), target.capability))
        for dtype_name in dtype_names
        if dtype_name in (BFLOAT16, FLOAT8)
        for problem in COMBINATIONS
        if _exists(problem, dtype_name, target)
    ] + [
        (_problem_of(name, row.key), dtype_name, row.tile)
        for name, row in tables.rows_for(target.capability, FAMILY)
        for dtype_name in dtype_names
        if dtype_name in (BFLOAT16, FLOAT8) and row.key.element_bytes == DTYPES[dtype_name].bytes
        if isinstance(row.tile, PrefillTile)  # the warp-specialised ones are all listed
    ]
    return listed + [replace(_specimen(*arguments), is_listed=False) for arguments in unlisted]


def _exists(problem: AttentionProblem, dtype_name: str, target: Target) -> bool:
    """Whether the kernel takes the problem in a dtype on such a GPU."""
    if dtype_name == FLOAT8 and (problem.kv_dtype or not is_key_dim(problem.head_dim, MIN_FLOAT8_PART)):
        return False
    return compilable(problem, DTYPES[dtype_name], target)


def _problem_of(name: str, key: PrefillKey) -> AttentionProblem:
    """A problem that has a key, for the tile that a table gives it."""
    if key.copied_keys == max(LENGTHS) and not key.is_mixed:
        return prompts(name, (1,), 4, 1, key.head_dim, value_dim=key.value_dim)
    kv_dtype = FLOAT8 if key.is_mixed else None
    page_size = key.copied_keys or 16
    return chunks(name, (1,), (1,), 4, 1, key.head_dim, value_dim=key.value_dim, page_size=page_size, kv_dtype=kv_dtype)


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


def _specimen(problem: AttentionProblem, dtype_name: str, tile: PrefillTile) -> Specimen:
    dtype = DTYPES[dtype_name]
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
            "WEIGHT_SHIFT": weight_shift(*dtypes_of(problem, dtype_name), problem.values),
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
        max_registers=max_registers(problem.head_dim, getattr(torch, dtype_name)),
    )
