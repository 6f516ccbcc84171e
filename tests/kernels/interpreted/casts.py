"""Casts of the repaired interpreter. Prints, for each pair of types, how many values were cast and which went wrong."""

from __future__ import annotations

import json

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwatt_kernels import interpreter

BLOCK = tl.constexpr(1024)
FLOAT8_MAX = 448.0


@triton.jit
def cast_kernel(in_ptr, out_ptr, count):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(in_ptr + index, mask=index < count, other=0.0)
    tl.store(out_ptr + index, values.to(out_ptr.dtype.element_ty), mask=index < count)


def cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    """What a kernel makes of the values."""
    out = torch.empty(values.shape, dtype=dtype)
    cast_kernel[(triton.cdiv(values.numel(), BLOCK.value),)](values, out, values.numel())
    return out


def numbers(dtype: torch.dtype) -> Tensor:
    """All finite numbers of a type that are not negative, in the order of their bits, fp64."""
    whole = torch.uint8 if dtype.itemsize == 1 else torch.int16
    bits = torch.arange(2 ** (8 * dtype.itemsize - 1), dtype=torch.int32).to(whole)
    found = bits.view(dtype).double()
    return found[found.isfinite()]


def nearest(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded to the nearest number of the type, of two to that of even bits, which follow each other as numbers do."""
    table = numbers(dtype)
    above = torch.searchsorted(table, values.double().abs()).clamp(max=len(table) - 1)
    below = (above - 1).clamp(min=0)
    to_above, to_below = table[above] - values.double().abs(), values.double().abs() - table[below]
    is_up = (to_above < to_below) | ((to_above == to_below) & (above % 2 == 0))
    return (torch.where(is_up, table[above], table[below]) * values.double().sign()).float()


def hard_values(dtype: torch.dtype) -> Tensor:
    """Numbers of the type, ties between two of them, what lies next to a tie, and random ones; both signs."""
    table = numbers(dtype)
    ties = ((table[1:] + table[:-1]) / 2).float()
    up, down = (torch.nextafter(ties, torch.full_like(ties, limit)) for limit in (float("inf"), 0.0))
    random = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 2, 4096)
    values = torch.cat([table.float(), ties, up, down, random])
    return torch.cat([values, -values])


def wrong(values: Tensor, found: Tensor, expected: Tensor) -> list[float]:
    """The first values that became something else; NaN equals NaN."""
    same = (found.float() == expected.float()) | (found.float().isnan() & expected.float().isnan())
    return values[~same].float().tolist()[:5]


def narrowing(dtype: torch.dtype, values: Tensor) -> tuple[int, list[float], list[float]]:
    """fp32 to `dtype`: against the nearest number, and against torch, which leaves float8's range where a GPU stays."""
    limit = FLOAT8_MAX if dtype.itemsize == 1 else float("inf")
    found = cast(values, dtype)
    by_torch = values.clamp(-limit, limit).to(dtype)
    return len(values), wrong(values, found, nearest(values, dtype)), wrong(values, found, by_torch)


def widening(source: torch.dtype, dtype: torch.dtype) -> tuple[int, list[float]]:
    """Every number of `source`, which is exact."""
    table = numbers(source).to(source)
    return len(table), wrong(table, cast(table, dtype), table)


if __name__ == "__main__":
    interpreter.enable()
    float8, bfloat16 = torch.float8_e4m3fn, torch.bfloat16
    beyond = torch.tensor([449.0, 464.0, 480.0, 1e9, float("inf")])
    report = {
        "float8": narrowing(float8, hard_values(float8)),
        "float8 beyond its range": cast(torch.cat([beyond, -beyond]), float8).float().tolist(),
        "float8 of nan": cast(torch.tensor([float("nan")]), float8).float().isnan().tolist(),
        "bfloat16": narrowing(bfloat16, hard_values(bfloat16)),
        "bfloat16 of infinity and nan": cast(torch.tensor([float("inf"), float("nan")]), bfloat16).isfinite().tolist(),
        "float8 to float32": widening(float8, torch.float32),
        "float8 to float16": widening(float8, torch.float16),
        "float8 to bfloat16": widening(float8, bfloat16),
        "bfloat16 to float32": widening(bfloat16, torch.float32),
    }
    print(json.dumps(report))
