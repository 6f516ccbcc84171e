"""What the compile report compiles for decode attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokenwatt_kernels.attention.decode.kernel import (
    SEQUENCES_AT_ONCE,
    combine_blocks,
    combine_kernel,
    combine_warps,
    pipeline_stages,
    split_kernel,
)
from tokenwatt_kernels.attention.decode.problems import latents, tokens
from tokenwatt_kernels.attention.decode.tiles import DecodeTile, choose
from tokenwatt_kernels.attention.heads import key_parts, value_block
from tokenwatt_kernels.attention.problem import AttentionProblem
from tokenwatt_kernels.attention.specimen import compilable, make_specimen, shift_for
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.targets import Target

# Every head size, and every option at the size of a model that has it.
PROBLEMS = (
    tokens("D64", (1,), 32, 8, 64),
    tokens("D96", (1,), 32, 32, 96),
    tokens("D128", (1,), 32, 8, 128, checks_lse=True),
    tokens("D128 page 64", (1,), 32, 8, 128, page_size=64),
    tokens("D256", (1,), 8, 4, 256),
    tokens("D64 window sinks", (1,), 64, 8, 64, window=128, has_sinks=True),
    tokens("D256 softcap", (1,), 8, 4, 256, softcap=50.0),
    tokens("D128 group 32", (1,), 32, 1, 128),
    tokens("D128 verify 8", (1,), 64, 8, 128, queries=8),
    tokens("D128 fp8 cache", (1,), 32, 8, 128, kv_dtype="float8_e4m3fn"),
    latents("latent 576/512", (1,), 128, 576, 512, page_size=64),
)
FULL_PRECISION = {"D64", "D128", "D256"}


def specimens(target: Target, dtype_names: tuple[str, ...]) -> list[Specimen]:
    """Both kernels with the tile that `choose` gives, for each dtype and problem that the target has."""
    return [
        specimen
        for dtype_name in dtype_names
        for problem in PROBLEMS
        if dtype_name != "float8_e4m3fn"
        and compilable(problem, DTYPES[dtype_name], target)
        and (dtype_name != "float32" or problem.name in FULL_PRECISION)
        for specimen in _specimens(problem, dtype_name, target)
    ]


def _specimens(problem: AttentionProblem, dtype_name: str, target: Target) -> Iterator[Specimen]:
    dtype = DTYPES[dtype_name]
    kv_bytes = dtype.bytes if problem.kv_dtype is None else DTYPES[problem.kv_dtype].bytes
    queries = problem.queries[0]
    tile = choose(
        queries * problem.group, problem.head_dim, problem.values, kv_bytes, target.capability,
        values_are_keys=problem.is_latent,
    )  # fmt: skip
    shared = _shape(problem, queries, tile)
    main, tail = key_parts(problem.head_dim)
    yield make_specimen(
        f"decode {dtype_name} {problem.name}",
        split_kernel,
        problem,
        dtype,
        {
            **shared,
            "KEY_MAIN": main,
            "KEY_TAIL": tail,
            "PAGE_SIZE": problem.page_size,
            "DESCRIPTORS": tile.descriptors,
            "LIE_ALIKE": problem.values == problem.head_dim,
            "VALUES_ARE_KEYS": problem.is_latent,
            "CAPPED": problem.softcap is not None,
            "WEIGHT_SHIFT": shift_for(problem, dtype_name),
            "EDGE_N": tile.edge_n,
        },
        tile.block_n,
        configuration=tile.name,
        num_warps=tile.num_warps,
        num_stages=pipeline_stages(tile.num_stages),
        descriptors=tile.descriptors,
        max_registers=tile.registers,
    )
    block_r, block_p = combine_blocks(tile, problem.values)
    warps = combine_warps(problem.values)
    yield make_specimen(
        f"decode combine {dtype_name} {problem.name}",
        combine_kernel,
        problem,
        dtype,
        {**shared, "BLOCK_R": block_r, "BLOCK_P": block_p},
        tile.block_n,
        configuration=f"{block_r}x{block_p} w{warps}",
        num_warps=warps,
        num_stages=3,
    )


def _shape(problem: AttentionProblem, queries: int, tile: DecodeTile) -> dict[str, Any]:
    """The compile-time arguments that both kernels have."""
    return {
        "QUERIES": queries,
        "KV_HEADS": problem.kv_heads,
        "GROUP": problem.group,
        "ROW_BLOCKS": -(-queries * problem.group // tile.block_m),
        "VALUE_DIM": problem.values,
        "V_BLOCK": value_block(problem.values),
        "WINDOWED": problem.window is not None,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "LEAST_STEPS": tile.least_steps,
        "SEQUENCES_AT_ONCE": SEQUENCES_AT_ONCE,
    }
