"""What the tile of a matmul depends on besides the GPU. Plain Python."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.buckets import COLUMNS, TERMS, bucket
from tokenwatt_kernels.matmul.problem import FLOAT8, MatmulProblem


@dataclass(frozen=True, slots=True)
class MatmulKey:
    """What a tile depends on besides the GPU.

    rows, columns, terms: buckets of M, N and K.
    is_gated: the epilogue joins pairs of columns. is_blocked: float8 with a scale for each 128 terms.
    is_fast: products may stay in the tensor cores' accumulator; of 16 and 32 bits they always do.
    can_copy: rows of operands and output are whole 16 bytes.
    """

    rows: int
    columns: int
    terms: int
    element_bytes: int
    is_gated: bool
    is_blocked: bool
    is_fast: bool
    can_copy: bool

    def is_alike(self, other: MatmulKey) -> bool:
        """Whether two keys differ in sizes alone."""
        return replace(self, rows=0, columns=0, terms=0) == replace(other, rows=0, columns=0, terms=0)


def make_key(
    rows: tuple[int, int],
    m: int,
    n: int,
    k: int,
    element_bytes: int,
    *,
    is_gated: bool,
    is_blocked: bool,
    is_fast: bool,
    can_copy: bool,
) -> MatmulKey:
    """The key of a call. rows: least and most buckets of M, which a family has."""
    return MatmulKey(
        bucket(m, *rows), bucket(n, *COLUMNS), bucket(k, *TERMS), element_bytes, is_gated, is_blocked,
        is_fast or element_bytes > 1, can_copy,
    )  # fmt: skip


def key_of(rows: tuple[int, int], problem: MatmulProblem, dtype_name: str) -> MatmulKey:
    """The key of a problem."""
    return make_key(
        rows,
        problem.m,
        problem.n,
        problem.k,
        DTYPES[dtype_name].bytes,
        is_gated=problem.is_gated,
        is_blocked=problem.scaling == "block",
        is_fast=problem.fast_accumulation or dtype_name != FLOAT8,
        can_copy=problem.can_be_copied(dtype_name),
    )
