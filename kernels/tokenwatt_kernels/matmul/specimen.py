"""A matmul kernel as the compile report wants it: the type of every argument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.problem import MatmulProblem

OPERANDS = {"a_ptr", "weight_ptr"}
LIKE_OUT = {"out_ptr", "bias_ptr", "residual_ptr"}
FLOATS = {"a_scale_ptr", "weight_scale_ptr", "partial_ptr"}
ALIGNED_NUMBERS = {"N", "K", "a_stride_m", "weight_stride_n", "out_stride_m", "residual_stride_m"}


def make_specimen(
    name: str,
    kernel: Any,
    problem: MatmulProblem,
    dtype_name: str,
    constexprs: Mapping[str, Any],
    descriptors: Mapping[str, tuple[int, int]],
    **rest: Any,
) -> Specimen:
    """The specimen of a kernel for a problem whose sizes and strides are multiples of 16.

    descriptors: rows and columns of the tiles that the hardware copies, by argument; those not given are None.
    rest: further fields of Specimen.
    """
    dtype = DTYPES[dtype_name]
    element, out_element = dtype.triton_name, DTYPES[dtype.out_name].triton_name
    absent = {
        *(() if problem.has_bias else ("bias_ptr",)),
        *(() if problem.has_residual else ("residual_ptr",)),
        *(() if problem.scaling != "none" else ("a_scale_ptr", "weight_scale_ptr")),
    }
    signature, missing = {}, {}
    for argument in kernel.arg_names:
        if argument in constexprs:
            continue
        if argument in absent or (argument.endswith("_desc") and argument not in descriptors):
            missing[argument] = None
        elif argument in descriptors:
            rows, columns = descriptors[argument]
            kind = out_element if argument == "out_desc" else element
            signature[argument] = f"tensordesc<{kind}[{rows}, {columns}]>"
        elif argument in OPERANDS:
            signature[argument] = f"*{element}"
        elif argument in LIKE_OUT:
            signature[argument] = f"*{out_element}"
        elif argument in FLOATS:
            signature[argument] = "*fp32"
        else:
            signature[argument] = "i32"
    return Specimen(
        name=name,
        kernel=kernel,
        signature=signature,
        constexprs={**constexprs, **missing},
        aligned=frozenset(name for name, kind in signature.items() if kind[0] == "*" or name in ALIGNED_NUMBERS),
        needs_bulk_copies=bool(descriptors),
        **rest,
    )
