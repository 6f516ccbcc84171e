"""An attention kernel as the compile report wants it: the type of every argument for one problem, dtype and tile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from tokenwatt_kernels.attention.heads import key_parts, value_block
from tokenwatt_kernels.attention.problem import AttentionProblem
from tokenwatt_kernels.compiling import TRITON_VERSION, Specimen
from tokenwatt_kernels.dtypes import DTYPES, Dtype
from tokenwatt_kernels.targets import Target

UNALIGNED = {"table_stride_b", "q_scale_stride", "k_scale_stride", "v_scale_stride"}
INT32_POINTERS = {"query_starts_ptr", "key_starts_ptr", "context_lens_ptr", "table_ptr", "arrivals_ptr"}
FP32_POINTERS = {
    "log_sum_ptr", "partial_ptr", "partial_log_sum_ptr", "sinks_ptr", "q_scale_ptr", "k_scale_ptr", "v_scale_ptr",
}  # fmt: skip
FP32_NUMBERS = {"factor", "cap"}


def make_specimen(
    name: str,
    kernel: Any,
    problem: AttentionProblem,
    dtype: Dtype,
    constexprs: Mapping[str, Any],
    block_n: int,
    *,
    configuration: str,
    num_warps: int,
    num_stages: int,
    descriptors: bool = False,
    warpgroup: bool = False,
    max_registers: int | None = None,
) -> Specimen:
    """The specimen of a kernel whose compile-time arguments are `constexprs`; what the problem lacks is None."""
    kv_type = dtype.triton_name if problem.kv_dtype is None else DTYPES[problem.kv_dtype].triton_name
    absent = set(_absent(problem, dtype, descriptors=descriptors))
    if not constexprs.get("JOINS"):
        absent.add("arrivals_ptr")
    names = [name for name in kernel.arg_names if name not in constexprs]
    signature = {name: _type(name, problem, dtype, kv_type, block_n) for name in names if name not in absent}
    unaligned = UNALIGNED | {param.name for param in kernel.params if param.do_not_specialize_on_alignment}
    return Specimen(
        name=name,
        kernel=kernel,
        signature=signature,
        constexprs={**constexprs, **dict.fromkeys(name for name in names if name in absent)},
        aligned=frozenset(
            name for name, kind in signature.items() if name not in unaligned and (kind[0] == "*" or "stride" in name)
        ),
        num_warps=num_warps,
        num_stages=num_stages,
        needs_tensor_cores="k_ptr" in names and dtype.has_tensor_core_path,
        needs_bulk_copies=descriptors,
        needs_warpgroup_mma=warpgroup,
        configuration=configuration,
        max_registers=max_registers,
    )


def compilable(problem: AttentionProblem, dtype: Dtype, target: Target) -> bool:
    """Whether a GPU of this generation has the dtypes, as `device.check_float8` has it."""
    if dtype.bytes > 1 and problem.kv_dtype is None:
        return True
    is_mixed = dtype.bytes > 1
    return target.capability >= 90 or (target.capability == 89 and (not is_mixed or TRITON_VERSION >= (3, 9)))


def dtypes_of(problem: AttentionProblem, dtype_name: str) -> tuple[torch.dtype, torch.dtype]:
    """Those of queries and of keys."""
    return getattr(torch, dtype_name), getattr(torch, problem.kv_dtype or dtype_name)


def _absent(problem: AttentionProblem, dtype: Dtype, *, descriptors: bool) -> Iterator[str]:
    """Arguments that a call for this problem leaves out."""
    if not problem.checks_lse:
        yield "log_sum_ptr"
    if not problem.has_sinks:
        yield "sinks_ptr"
    if dtype.bytes > 1:
        yield "q_scale_ptr"
    if dtype.bytes > 1 and problem.kv_dtype is None:
        yield from ("k_scale_ptr", "v_scale_ptr")
    if not descriptors:
        yield from ("k_desc", "k_tail_desc", "v_desc")
    if problem.page_size:
        yield "key_starts_ptr"
    else:
        yield from ("context_lens_ptr", "table_ptr")


def _type(name: str, problem: AttentionProblem, dtype: Dtype, kv_type: str, block_n: int) -> str:
    main, tail = key_parts(problem.head_dim)
    widths = {"k_desc": main, "k_tail_desc": tail or main, "v_desc": value_block(problem.values)}
    if name in widths:
        return f"tensordesc<{kv_type}[{block_n}, {widths[name]}]>"
    if name in INT32_POINTERS:
        return "*i32"
    if name in FP32_POINTERS:
        return "*fp32"
    if name in FP32_NUMBERS:
        return "fp32"
    if name in ("k_ptr", "v_ptr"):
        return f"*{kv_type}"
    if name == "out_ptr":
        return f"*{DTYPES[dtype.out_name].triton_name}"
    return f"*{dtype.triton_name}" if name.endswith("_ptr") else "i32"
