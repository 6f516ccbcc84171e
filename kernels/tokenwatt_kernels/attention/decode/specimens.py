"""What the compile report compiles for decode attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tokenwatt_kernels import following, tables
from tokenwatt_kernels.attention.decode.kernel import (
    SEQUENCES_AT_ONCE,
    combine_blocks,
    combine_kernel,
    combine_warps,
    pipeline_stages,
    split_kernel,
)
from tokenwatt_kernels.attention.decode.problems import latents, tokens
from tokenwatt_kernels.attention.decode.tiles import FAMILY, DecodeKey, DecodeTile, default, key_of
from tokenwatt_kernels.attention.heads import key_parts, value_block
from tokenwatt_kernels.attention.online_softmax import weight_shift
from tokenwatt_kernels.attention.problem import FLOAT8, AttentionProblem
from tokenwatt_kernels.attention.specimen import compilable, dtypes_of, make_specimen
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.pairwise import every_pair
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
OTHERS = {
    "float32": {"D64", "D128", "D256"},
    "float16": {"D64 window sinks", "D256 softcap", "D128 fp8 cache", "latent 576/512"},
}
"""Of PROBLEMS: float32 has few tiles, and float16 is compiled as bfloat16 is."""
BFLOAT16 = "bfloat16"


HEADS = ((64, 64), (96, 96), (128, 128), (192, 128), (256, 256))
ROWS = ((4, 1), (8, 4), (8, 8))
CACHES = ((16, None), (64, None), (16, FLOAT8), (64, FLOAT8))
OPTIONS: dict[str, dict[str, Any]] = {
    "window sinks": {"window": 128, "has_sinks": True},
    "window softcap": {"window": 128, "softcap": 50.0},
    "log-sum-exp": {"checks_lse": True},
}
"""What models have together. All at once spill two registers at 64 dimensions on sm_90 and sm_100."""


def _combinations() -> Iterator[AttentionProblem]:
    """Every two of what the code of a step depends on: head, rows, page and dtype of the cache, and options.

    And with all of it where the head is the widest and rows are the most.
    """
    choices = every_pair(HEADS, ROWS, CACHES, tuple(OPTIONS))
    most = [(HEADS[-1], ROWS[-1], cache, "window softcap") for cache in CACHES]
    for (head_dim, value_dim), (group, queries), (page_size, kv_dtype), option in choices + [
        choice for choice in most if choice not in choices
    ]:
        cache = " fp8 cache" if kv_dtype else ""
        name = f"D{head_dim}/{value_dim} {group * queries} rows page {page_size}{cache} {option}"
        yield tokens(
            name, (1,), 8 * group, 8, head_dim, queries=queries, page_size=page_size, value_dim=value_dim,
            kv_dtype=kv_dtype, **OPTIONS[option],
        )  # fmt: skip
    yield latents("latent 576/512 fp8 cache", (1,), 128, 576, 512, page_size=64, kv_dtype=FLOAT8)


COMBINATIONS = tuple(_combinations())


def specimens(target: Target, dtype_names: tuple[str, ...]) -> list[Specimen]:
    """Both kernels with the tile of a GPU without a table, for each dtype and problem that the target has.

    And in bfloat16 the main kernel for the combinations, and with every tile of the tables of such GPUs.
    """
    listed = [
        specimen
        for dtype_name in dtype_names
        for problem in PROBLEMS
        if dtype_name != FLOAT8
        and compilable(problem, DTYPES[dtype_name], target)
        and problem.name in OTHERS.get(dtype_name, {problem.name})
        for specimen in _specimens(problem, dtype_name, default(key_of(problem, dtype_name), target.capability), target)
    ]
    if BFLOAT16 not in dtype_names:
        return listed
    unlisted = [
        (problem, default(key_of(problem, BFLOAT16), target.capability))
        for problem in COMBINATIONS
        if compilable(problem, DTYPES[BFLOAT16], target)
    ] + [
        (_problem_of(name, row.key), row.tile)
        for name, row in tables.rows_for(target.capability, FAMILY)
        if row.key.element_bytes < 4
    ]
    return listed + [
        replace(next(_specimens(problem, BFLOAT16, tile, target)), is_listed=False) for problem, tile in unlisted
    ]


def _problem_of(name: str, key: DecodeKey) -> AttentionProblem:
    """A problem that has a key, for the tile that a table gives it."""
    kv_dtype = FLOAT8 if key.element_bytes == 1 else None
    page_size = key.copied_keys or 16
    if key.values_are_keys:
        return latents(name, (1,), key.rows, key.head_dim, key.value_dim, page_size=page_size, kv_dtype=kv_dtype)
    return tokens(
        name, (1,), key.rows, 1, key.head_dim, value_dim=key.value_dim, page_size=page_size, kv_dtype=kv_dtype
    )


def _specimens(problem: AttentionProblem, dtype_name: str, tile: DecodeTile, target: Target) -> Iterator[Specimen]:
    dtype = DTYPES[dtype_name]
    queries = problem.queries[0]
    shared = _shape(problem, queries, tile, target)
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
            "WEIGHT_SHIFT": weight_shift(*dtypes_of(problem, dtype_name)),
            "EDGE_N": tile.edge_n,
            "JOINS": tile.joins,
        },
        tile.block_n,
        configuration=tile.name,
        num_warps=tile.num_warps,
        num_stages=pipeline_stages(tile.num_stages),
        descriptors=tile.descriptors,
        max_registers=tile.registers,
    )
    if tile.joins:
        return
    block_r, block_p = combine_blocks(tile, problem.values)
    warps = combine_warps(problem.values)
    yield make_specimen(
        f"decode combine {dtype_name} {problem.name}",
        combine_kernel,
        problem,
        dtype,
        shared,
        tile.block_n,
        configuration=f"{block_r}x{block_p} w{warps}",
        num_warps=warps,
        num_stages=3,
    )


def _shape(problem: AttentionProblem, queries: int, tile: DecodeTile, target: Target) -> dict[str, Any]:
    """The compile-time arguments that both kernels have."""
    block_r, block_p = combine_blocks(tile, problem.values)
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
        **following.constants(target),
        "LEAST_STEPS": tile.least_steps,
        "SEQUENCES_AT_ONCE": SEQUENCES_AT_ONCE,
        "BLOCK_R": block_r,
        "BLOCK_P": block_p,
    }
