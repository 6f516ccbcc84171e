"""Triton's interpreter, checked before it is trusted, for a process that runs under TRITON_INTERPRET=1.

Three faults are known. Releases before 3.7 cannot use a run-time loop bound with numpy >= 2.4, and all releases so far
multiply bfloat16 bit patterns instead of numbers, and round wrongly to bfloat16 and float8. Each repair is applied only
if its self-test fails, and must then make it pass; a release without the fault is left as it is.
"""

from __future__ import annotations

import os

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

SIDE = tl.constexpr(16)


@triton.jit
def _count_kernel(bound_ptr, out_ptr):
    total = 0
    for _ in range(tl.load(bound_ptr)):
        total += 1
    tl.store(out_ptr, total)


@triton.jit
def _float8_kernel(a_ptr, out_ptr):
    index = tl.arange(0, SIDE * SIDE)
    tl.store(out_ptr + index, tl.load(a_ptr + index).to(tl.float8e4nv))


@triton.jit
def _bfloat16_kernel(a_ptr, out_ptr):
    index = tl.arange(0, SIDE)
    tile = index[:, None] * SIDE + index[None, :]
    a = tl.load(a_ptr + tile)
    product = tl.dot(a, tl.trans(a))
    tl.store(out_ptr + tile, product.to(tl.bfloat16))


def enable() -> None:
    """Make the interpreter of this process run loops and bfloat16 as a GPU does.

    Raises RuntimeError where the process does not interpret, or where a fault remains after its repair.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("TRITON_INTERPRET must be 1 before triton is imported, to run kernels without a GPU")
    for works, repair in (
        (_loops_work, _repair_loops),
        (_bfloat16_works, _repair_bfloat16),
        (_float8_works, _repair_float8),
    ):
        if works():
            continue
        repair()
        if not works():
            raise RuntimeError(f"the interpreter of triton {triton.__version__} is wrong: {works.__name__} is False")


def _loops_work() -> bool:
    """Whether a loop can end at a number loaded from memory."""
    bound, out = torch.tensor([3], dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    try:
        _count_kernel[(1,)](bound, out)
    except interpreter.InterpreterError as error:
        if "0-dimensional" not in str(error.__cause__):
            raise
        return False
    return int(out) == 3


def _bfloat16_works() -> bool:
    """Whether a dot of bfloat16 numbers, rounded to bfloat16, equals torch's."""
    side = SIDE.value
    a = (torch.arange(side * side) % 23 - 7.0).reshape(side, side).to(torch.bfloat16)
    out = torch.empty(side, side, dtype=torch.bfloat16)
    _bfloat16_kernel[(1,)](a, out)
    return torch.equal(out, (a.float() @ a.float().T).to(torch.bfloat16))


def _float8_works() -> bool:
    """Whether fp32 becomes float8 as torch rounds it, and beyond its range the largest float8 as on a GPU."""
    a = torch.linspace(-1.0, 1.0, SIDE.value**2) * 500.0
    out = torch.empty(a.shape, dtype=torch.float8_e4m3fn)
    _float8_kernel[(1,)](a, out)
    return torch.equal(out.float(), _to_float8(a).float())


def _repair_loops() -> None:
    """Convert a one-element tensor to a loop bound whatever its number of axes (numpy 2.4 converts none but 0-d)."""
    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_with_index(tensor: type, scope: interpreter._LangPatchScope) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_tensor_with_index


def _repair_bfloat16() -> None:
    """Multiply bfloat16 in fp32, and round to nearest even on the way back.

    Arithmetic between bfloat16 tiles stays wrong in the interpreter, so it is refused: the kernels accumulate in fp32.
    """
    builder = interpreter.InterpreterBuilder
    create_dot, cast, binary = builder.create_dot, builder.cast_impl, builder.binary_op

    def exact_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        return create_dot(self, _widened(a), _widened(b), d, input_precision, max_num_imprecise_acc)

    def rounding_cast(self, src, dst_type):
        if dst_type.scalar != tl.bfloat16:
            return cast(self, _widened(src), dst_type)
        return interpreter.TensorHandle(_to_bits(src.data.astype(np.float32)), tl.bfloat16)

    def refusing_binary(self, lhs, rhs, op):
        if tl.bfloat16 in (lhs.dtype.scalar, rhs.dtype.scalar):
            raise NotImplementedError("the interpreter must not do arithmetic between bfloat16 tiles; cast to fp32")
        return binary(self, lhs, rhs, op)

    builder.create_dot, builder.cast_impl, builder.binary_op = exact_dot, rounding_cast, refusing_binary


def _repair_float8() -> None:
    """Carry a rounded significand into the exponent, which the interpreter forgets."""
    builder = interpreter.InterpreterBuilder
    convert = builder.create_fp_to_fp

    def rounding_convert(self, src, dst_type, rounding_mode):
        if dst_type.scalar != tl.float8e4nv:
            return convert(self, src, dst_type, rounding_mode)
        values = torch.from_numpy(np.atleast_1d(_widened(src).data.astype(np.float32)))
        bits = _to_float8(values).view(torch.uint8).numpy().reshape(src.data.shape)
        return interpreter.TensorHandle(bits, tl.float8e4nv)

    builder.create_fp_to_fp = rounding_convert


def _to_float8(values: torch.Tensor) -> torch.Tensor:
    """float8 e4m3, rounded to nearest even; what is out of range becomes +-448."""
    return values.clamp(-448.0, 448.0).to(torch.float8_e4m3fn)


def _widened(handle: interpreter.TensorHandle) -> interpreter.TensorHandle:
    """A bfloat16 tile as fp32, exactly; any other tile as it is. The interpreter keeps bfloat16 as uint16 bits."""
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    bits = handle.data.astype(np.uint32) << 16
    return interpreter.TensorHandle(bits.view(np.float32), tl.float32)


def _to_bits(values: np.ndarray) -> np.ndarray:
    """fp32 values as bfloat16 bits, rounded to nearest even; NaN stays NaN."""
    return torch.from_numpy(np.atleast_1d(values)).to(torch.bfloat16).view(torch.uint16).numpy().reshape(values.shape)
