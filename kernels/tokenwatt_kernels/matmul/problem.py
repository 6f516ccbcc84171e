"""A matmul to answer: its sizes, and what happens to the product before it is stored."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.scaling import a_scale_shape, weight_scale_shape
from tokenwatt_kernels.targets import target_for
from tokenwatt_kernels.work import Work

DTYPE_NAMES = ("float32", "float16", "bfloat16", "float8_e4m3fn")
FLOAT8 = "float8_e4m3fn"
SCALE_BYTES = 4
FLOAT8_CAPABILITY = 89
COPY_BYTES = 16
"""What addresses and rows must be multiples of, for the hardware to copy tiles."""


@dataclass(frozen=True, slots=True)
class MatmulProblem:
    """out [m, n] = activation(a [m, k] @ weight[n, k].T + bias) + residual; half as many columns where it is gated.

    scaling: of float8 operands, one of scaling.SCALINGS; "none" for other dtypes.
    fast_accumulation: float8 products may stay in the tensor cores' accumulator.
    """

    name: str
    m: int
    n: int
    k: int
    activation: str = "none"
    has_bias: bool = False
    has_residual: bool = False
    scaling: str = "none"
    fast_accumulation: bool = False

    @property
    def terms(self) -> int:
        """Terms in the sum of one output."""
        return self.k

    @property
    def is_gated(self) -> bool:
        """Whether the weight's rows are those of gate and up in turns."""
        return self.activation != "none"

    @property
    def out_columns(self) -> int:
        """Columns of the output."""
        return self.n // 2 if self.is_gated else self.n

    @property
    def scale_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the scales of a and of the weight, where there are any."""
        if self.scaling == "none":
            return ()
        of_weight = weight_scale_shape(self.scaling, self.n, self.k, is_gated=self.is_gated)
        return a_scale_shape(self.scaling, self.m, self.k), of_weight

    def promotes(self, dtype_name: str, capability: int) -> bool:
        """Whether sums must leave the tensor cores' accumulator at every step on a GPU of `capability`."""
        is_short = dtype_name == FLOAT8 and target_for(capability).shortens_float8_sums
        return is_short and not self.fast_accumulation

    def can_be_copied(self, dtype_name: str) -> bool:
        """Whether the hardware can copy tiles of operands and output, if rows follow each other without a gap."""
        dtype = DTYPES[dtype_name]
        rows = (self.k * dtype.bytes, self.out_columns * dtype.out_bytes)
        return self.k > 0 and all(row % COPY_BYTES == 0 for row in rows)


def takes(problem: MatmulProblem, dtype_name: str, capability: int | None) -> bool:
    """Whether the kernels take the problem in a dtype on a GPU of `capability`; None is the interpreter.

    A problem is of float8 exactly if it is scaled.
    """
    if (dtype_name == FLOAT8) != (problem.scaling != "none"):
        return False
    return dtype_name != FLOAT8 or capability is None or capability >= FLOAT8_CAPABILITY


def work(problem: MatmulProblem, dtype_name: str) -> Work:
    """M * N dot products of K multiplications and K additions.

    a, the weight, the scales, the bias and the residual are read once, and the output is written once. What the
    epilogue computes is not counted.
    """
    m, n, k = problem.m, problem.n, problem.k
    dtype = DTYPES[dtype_name]
    operands = (m * k + n * k) * dtype.bytes
    ends = m * problem.out_columns * (2 if problem.has_residual else 1) + (n if problem.has_bias else 0)
    scales = sum(math.prod(shape) for shape in problem.scale_shapes)
    return Work(flop=2 * m * n * k, bytes=operands + ends * dtype.out_bytes + scales * SCALE_BYTES)
