"""What the compile report compiles for routing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokenwatt_kernels import tables
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.moe.route.kernel import (
    PLACE_WARPS,
    ROWS_AT_ONCE,
    SCAN_WARPS,
    choose_kernel,
    place_kernel,
    programs_at_once,
    scan_kernel,
    shape,
)
from tokenwatt_kernels.moe.route.problems import DTYPE_NAMES, RouteProblem, sigmoid, softmax
from tokenwatt_kernels.moe.route.tiles import FAMILY, RouteTile, block_e, default, key_of
from tokenwatt_kernels.targets import REGISTERS_PER_THREAD, Target

PROBLEMS = (
    softmax("Mixtral", 64, 8, 2),
    softmax("gpt-oss", 64, 32, 4),
    softmax("Qwen3", 64, 128, 8),
    softmax("512 experts", 64, 512, 16, renormalize=False),
    sigmoid("DeepSeek-V3", 64, 256, 8, groups=8, top_groups=4, scale=2.5),
    sigmoid("384 experts", 64, 384, 8, scale=2.5),
)
BFLOAT16 = "bfloat16"
POINTERS = {
    "bias_ptr": "*fp32", "weights_ptr": "*fp32", "experts_ptr": "*i32", "order_ptr": "*i32", "inverse_ptr": "*i32",
    "offsets_ptr": "*i32", "counts_ptr": "*i32",
}  # fmt: skip


def specimens(target: Target, dtype_names: tuple[str, ...]) -> list[Specimen]:
    """Every kernel with the tile of a GPU without a table, and the first with the tiles of the tables of such GPUs.

    Dtypes other than bfloat16 differ in the loads of the first alone: it is compiled for one or for many programs in
    turns.
    """
    found = []
    for dtype_name in dtype_names:
        if dtype_name not in DTYPE_NAMES:
            continue
        for index, problem in enumerate(PROBLEMS):
            tile = default(key_of(problem, dtype_name), target.capability)
            ways = (True, False) if dtype_name == BFLOAT16 else (index % 2 == 0,)
            found += [_choose(problem, dtype_name, tile, alone=alone) for alone in ways]
        for name, row in tables.rows_for(target.capability, FAMILY):
            problem = softmax(name, 64, row.key.experts, 8)
            found.append(_choose(problem, dtype_name, row.tile, alone=False, is_listed=False))
    if BFLOAT16 in dtype_names:
        found += [specimen for problem in PROBLEMS for specimen in _others(problem)]
    return found


def _choose(
    problem: RouteProblem, dtype_name: str, tile: RouteTile, *, alone: bool, is_listed: bool = True
) -> Specimen:
    constexprs = {**shape(problem.experts, problem.choice, tile), "ALONE": alone}
    if not problem.has_bias:
        constexprs["bias_ptr"] = None
    return _specimen(
        f"route {dtype_name} {problem.name}{' alone' if alone else ''}", choose_kernel, constexprs, tile.num_warps,
        DTYPES[dtype_name].triton_name, configuration=tile.name, is_listed=is_listed,
    )  # fmt: skip


def _others(problem: RouteProblem) -> Iterator[Specimen]:
    experts = problem.experts
    blocks = {"EXPERTS": experts, "BLOCK_P": programs_at_once(experts), "BLOCK_E": block_e(experts)}
    yield _specimen(f"route scan {problem.name}", scan_kernel, blocks, SCAN_WARPS)
    rows = {"EXPERTS": experts, "TOP_K": problem.choice.top_k, "ROWS_AT_ONCE": ROWS_AT_ONCE}
    yield _specimen(f"route place {problem.name}", place_kernel, rows, PLACE_WARPS)


def _specimen(
    name: str,
    kernel: Any,
    constexprs: Mapping[str, Any],
    num_warps: int,
    logits_type: str = "",
    *,
    configuration: str = "",
    is_listed: bool = True,
) -> Specimen:
    types = {**POINTERS, "logits_ptr": f"*{logits_type}", "scale": "fp32"}
    signature = {name: types.get(name, "i32") for name in kernel.arg_names if name not in constexprs}
    return Specimen(
        name=name,
        kernel=kernel,
        signature=signature,
        constexprs=constexprs,
        aligned=frozenset(name for name in signature if name.endswith("_ptr")),
        num_warps=num_warps,
        num_stages=1,
        needs_tensor_cores=False,
        configuration=configuration or f"w{num_warps}",
        max_registers=REGISTERS_PER_THREAD if kernel is choose_kernel else None,
        is_listed=is_listed,
    )
