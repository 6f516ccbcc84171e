"""What the compile report compiles for grouped matmuls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product as combinations
from typing import Any

import torch

from tokenwatt_kernels import tables
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.activations import ACTIVATIONS
from tokenwatt_kernels.matmul.packed.formats import WORDS
from tokenwatt_kernels.moe.grouped.inputs import shapes_of
from tokenwatt_kernels.moe.grouped.kernel import (
    COMBINE_COLUMNS,
    COMBINE_WARPS,
    combine_kernel,
    grouped_kernel,
    options_of,
)
from tokenwatt_kernels.moe.grouped.problems import DTYPE_NAMES, FLOAT8, GroupedProblem, balanced, down, gate_up, takes
from tokenwatt_kernels.moe.grouped.tiles import FAMILY, MANY_ROWS, GroupedKey, GroupedTile, default, key_of
from tokenwatt_kernels.pairwise import every_pair
from tokenwatt_kernels.targets import Target

BFLOAT16 = "bfloat16"
Way = Mapping[str, Any]
"""Where factors are, whether float8 sums stay in the tensor cores, and a packed weight, as fields of a problem."""
CHANNEL: Way = {"scales": "channel"}
BLOCK: Way = {"scales": "block"}
FAST: Way = {"scales": "channel", "fast_accumulation": True}
MXFP4: Way = {"is_mxfp4": True}
TRIED = {BFLOAT16: (CHANNEL, MXFP4), FLOAT8: (CHANNEL, BLOCK, FAST)}
"""Dtypes of all options: float16 is compiled as bfloat16 is, and float32 has few tiles."""
EXPERTS, TOP_K = 128, 8
TOKENS = {"16 rows": 16, "32 rows": 512, "64 rows": 1024, "many rows": 4096}
MOST = "many rows"
"""Those whose tile asks for the most."""
DOWN = "down"
"""Stands beside the activations of the first product for the second, which has none."""
ALIGNED = ("a_ptr", "weight_ptr", "out_ptr", "K", "a_stride_m", "weight_stride_e", "weight_stride_n", "out_stride_m")
INT32_POINTERS = ("offsets_ptr", "order_ptr")
FP32_POINTERS = ("token_weights_ptr", "a_scale_ptr", "weight_scale_ptr")


def _layers(rows: str, k: int = 2048, **options: Any) -> Iterator[GroupedProblem]:
    """Both products of a layer like Qwen3-30B-A3B's, for K = `k`."""
    of_experts = balanced(TOKENS[rows], EXPERTS, TOP_K)
    yield gate_up(f"gate_up {rows}", of_experts, 1536, k, TOP_K, **options)
    yield down(f"down {rows}", of_experts, 2048, k, TOP_K, **{**options, "activation": "none"})


def specimens(target: Target, dtype_names: tuple[str, ...]) -> list[Specimen]:
    """Both kernels with the tile of a GPU without a table: for TRIED dtypes each way to scale, product and rows.

    And unlisted, every tile with all options, every two options with the tile of many rows, and in bfloat16 the tiles
    of the tables of such GPUs. Other dtypes have their tiles with all options.
    """
    found, unlisted = [], []
    for dtype_name in dtype_names:
        if dtype_name not in DTYPE_NAMES:
            continue
        for problem in _listed(dtype_name) if dtype_name in TRIED else _full():
            if takes(problem, dtype_name, target.capability):
                found.append(_default(target, dtype_name, problem))
        if dtype_name != FLOAT8:
            found.append(_combine(dtype_name))
        for problem, copies in _combinations(dtype_name) if dtype_name in TRIED else ():
            if takes(problem, dtype_name, target.capability):
                unlisted.append(_default(target, dtype_name, problem, copies=copies))
    if BFLOAT16 in dtype_names:
        for name, row in tables.rows_for(target.capability, FAMILY):
            unlisted += _of_table(target, name, row.key, row.tile)
    return found + [replace(specimen, is_listed=False) for specimen in unlisted]


def _listed(dtype_name: str) -> Iterator[GroupedProblem]:
    for rows, way in combinations(TOKENS, TRIED[dtype_name]):
        if way is not FAST or rows == MOST:
            yield from map(_named, _layers(rows, **way))


def _full(way: Way = CHANNEL) -> Iterator[GroupedProblem]:
    """Each number of rows, gated, with biases and a short last step, and the second product of many rows.

    Factors of blocks have no short steps, and a packed weight has groups of 32.
    """
    terms = 2048 if way is BLOCK else 2016 if way is MXFP4 else 2000
    words = "bias" if way is BLOCK else f"bias K {terms}"
    for rows in TOKENS:
        for problem in _layers(rows, terms, activation="swiglu_clamped", has_bias=True, **way):
            if problem.gathers or rows == MOST:
                yield _named(problem, words)


def _combinations(dtype_name: str) -> Iterator[tuple[GroupedProblem, bool]]:
    """What changes the code beside the listed ones, and whether the hardware may copy the weight."""
    for way, copies in combinations(TRIED[dtype_name], (True, False)):
        for problem in _full(way):
            yield problem, copies
    for activation, has_bias, terms in every_pair((DOWN, *ACTIVATIONS), (False, True), (2000, 2048)):
        gate_up, down = _layers(MOST, terms, activation="none" if activation == DOWN else activation, has_bias=has_bias)
        words = f"{activation}{' bias' if has_bias else ''} K {terms}"
        yield _named(down if activation == DOWN else gate_up, words), True


def _named(problem: GroupedProblem, words: str = "") -> GroupedProblem:
    way = "mxfp4" if problem.is_mxfp4 else "fast" if problem.fast_accumulation else ""
    way = "block scales" if problem.scales == "block" else way
    return replace(problem, name=" ".join(filter(None, (problem.name, way, words))))


def _of_table(target: Target, name: str, key: GroupedKey, tile: GroupedTile) -> Iterator[Specimen]:
    dtype_name = {1: FLOAT8, 2: BFLOAT16, 4: "float32"}[key.element_bytes]
    rows = "many rows" if key.rows == MANY_ROWS else f"{key.rows} rows"
    way = (
        MXFP4
        if key.is_mxfp4
        else BLOCK
        if key.block_scaled
        else FAST
        if key.element_bytes == 1 and key.is_fast
        else CHANNEL
    )
    for problem in _layers(rows, **way):
        yield _specimen(target, f"{name} {problem.name}", dtype_name, problem, tile)


def _default(target: Target, dtype_name: str, problem: GroupedProblem, *, copies: bool = True) -> Specimen:
    tile = default(replace(key_of(problem, dtype_name), copies=copies), target.capability)
    return _specimen(target, problem.name if copies else f"{problem.name} pointers", dtype_name, problem, tile)


def _specimen(target: Target, name: str, dtype_name: str, problem: GroupedProblem, tile: GroupedTile) -> Specimen:
    dtype = DTYPES[dtype_name]
    product = shapes_of(problem, dtype_name, torch.device("meta"))
    tensors = {
        "weight_desc": tile.descriptors or None,
        "words_scale_ptr": problem.is_mxfp4 or None,
        "words_scale_desc": (problem.is_mxfp4 and tile.descriptors) or None,
        "order_ptr": product.order,
        "token_weights_ptr": product.token_weights,
        "bias_ptr": product.bias,
        "a_scale_ptr": product.a_scale,
        "weight_scale_ptr": product.weight_scale,
    }
    options = options_of(product, tile, promotes=product.promotes(target.capability))
    constexprs = {**options, **{key: None for key, value in tensors.items() if value is None}}
    signature = {key: "i32" for key in grouped_kernel.arg_names if key not in constexprs}
    for key in signature:
        if key == "weight_desc":
            kind, columns = ("i16", WORDS) if problem.is_mxfp4 else (dtype.triton_name, tile.block_k)
            signature[key] = f"tensordesc<{kind}[{tile.block_n}, {columns}]>"
        elif key == "words_scale_desc":
            signature[key] = f"tensordesc<i32[1, {tile.block_n}]>"
        elif key == "words_scale_ptr":
            signature[key] = "*i32"
        elif key == "weight_ptr" and problem.is_mxfp4:
            signature[key] = "*i16"
        elif key in INT32_POINTERS:
            signature[key] = "*i32"
        elif key in FP32_POINTERS:
            signature[key] = "*fp32"
        elif key.endswith("_ptr"):
            stored = DTYPES[dtype.out_name] if key in ("out_ptr", "bias_ptr") else dtype
            signature[key] = f"*{stored.triton_name}"
    return Specimen(
        name=f"grouped {dtype_name} {name}",
        kernel=grouped_kernel,
        signature=signature,
        constexprs=constexprs,
        aligned=frozenset(ALIGNED),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        needs_tensor_cores=dtype.has_tensor_core_path,
        needs_bulk_copies=tile.descriptors,
        needs_warpgroup_mma=dtype.has_tensor_core_path,
        configuration=tile.name,
        max_registers=tile.registers,
    )


def _combine(dtype_name: str) -> Specimen:
    kind = f"*{DTYPES[dtype_name].triton_name}"
    pointers = ("parts_ptr", "residual_ptr", "out_ptr")
    numbers = ("N", "residual_stride_t", "out_stride_t")
    return Specimen(
        name=f"grouped combine {dtype_name}",
        kernel=combine_kernel,
        signature={**dict.fromkeys(pointers, kind), **dict.fromkeys(numbers, "i32")},
        constexprs={"TOP_K": TOP_K, "BLOCK_N": COMBINE_COLUMNS},
        aligned=frozenset((*pointers, *numbers)),
        num_warps=COMBINE_WARPS,
        num_stages=1,
        needs_tensor_cores=False,
        configuration=f"{COMBINE_COLUMNS} w{COMBINE_WARPS}",
    )
