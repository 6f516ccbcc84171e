"""float8 e4m3 with fp32 scales: one per tensor, per row, or per block. A number is its float8 times its scale.

A scale is the largest magnitude divided by 448, the largest e4m3 number (Micikevicius et al., "FP8 Formats for Deep
Learning", arXiv 2209.05433); where all magnitudes are below 2^-100 they become zeros, and it is 1. Numbers are rounded
to the nearest, ties to even. `fused.norm` quantises by the same rule.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels.arguments import FLOAT8
from tokenwatt_kernels.number_formats.checks import check_numbers

LARGEST = 448.0
BLOCK = 128
LEAST_LARGEST = 2.0**-100
"""Less counts as zero. From here on neither a scale nor its reciprocal is zero, subnormal or infinite in fp32."""


def scale_of(largest: Tensor) -> Tensor:
    """The scale for numbers of which `largest` is the largest magnitude: fp32, or fp64 where that is fp64."""
    wide = largest.to(torch.promote_types(largest.dtype, torch.float32))
    return torch.where(wide < LEAST_LARGEST, 1.0, wide / LARGEST)


def to_float8(x: Tensor, scale: Tensor) -> Tensor:
    """x / scale as float8, with what is out of range at +-448."""
    return (x.float() / scale).clamp(-LARGEST, LARGEST).to(FLOAT8)


def quantise_per_tensor(x: Tensor) -> tuple[Tensor, Tensor]:
    """x of any shape as float8_e4m3fn of that shape and one scale, fp32 [1].

    Raises TypeError for another dtype than float32, float16 and bfloat16, ValueError for NaN and infinity; so do the
    other functions here that quantise.
    """
    check_numbers("x", x, least_axes=0)
    scale = scale_of(_largest(x.reshape(1, -1)))
    return to_float8(x, scale), scale


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., K] as float8_e4m3fn [..., K] and scales fp32 [...].

    One scale per token of activations [M, K], or per output channel of a weight [N, K].
    """
    check_numbers("x", x)
    scale = scale_of(_largest(x))
    return to_float8(x, scale[..., None]), scale


def quantise_blocks(x: Tensor, rows: int = 1, columns: int = BLOCK) -> tuple[Tensor, Tensor]:
    """x [..., R, K] as float8_e4m3fn [..., R, K] and a scale per block, fp32 [..., ceil(R / rows), ceil(K / columns)].

    DeepSeek-V3 takes 1 x 128 for activations and 128 x 128 for weights (arXiv 2412.19437). The last blocks may be
    smaller.
    """
    check_numbers("x", x, least_axes=2)
    _check_block(rows, columns)
    r, k = x.shape[-2:]
    padded = torch.nn.functional.pad(x, (0, -k % columns, 0, -r % rows))
    blocks = padded.unflatten(-1, (-1, columns)).unflatten(
        -3, (-1, rows)
    )  # [..., R / rows, rows, K / columns, columns]
    scale = scale_of(blocks.abs().amax(dim=(-3, -1)))
    return to_float8(x, expand_blocks(scale, r, k, rows, columns)), scale


def dequantise(quantised: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers that quantise_per_tensor or quantise_rows stand for: scale is [1], or has one axis fewer."""
    rows = quantised.shape[:-1]
    if scale.shape not in ((1,), rows):
        raise ValueError(f"scale must have shape [1] or {list(rows)}, got {list(scale.shape)}")
    wide = torch.promote_types(dtype, torch.float32)
    return (quantised.to(wide) * (scale if scale.shape == (1,) else scale[..., None])).to(dtype)


def dequantise_blocks(
    quantised: Tensor, scale: Tensor, rows: int = 1, columns: int = BLOCK, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The numbers that quantise_blocks stands for, with the same blocks."""
    _check_block(rows, columns)
    r, k = quantised.shape[-2:]
    wanted = [*quantised.shape[:-2], -(-r // rows), -(-k // columns)]
    if list(scale.shape) != wanted:
        raise ValueError(f"scale must have shape {wanted} for blocks of {rows} x {columns}, got {list(scale.shape)}")
    return (quantised.float() * expand_blocks(scale, r, k, rows, columns)).to(dtype)


def expand_blocks(scale: Tensor, r: int, k: int, rows: int, columns: int) -> Tensor:
    """A scale per block as a scale per number, [..., R, K]."""
    return scale.repeat_interleave(rows, -2)[..., :r, :].repeat_interleave(columns, -1)[..., :k]


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax(-1) if x.shape[-1] else x.new_zeros(x.shape[:-1])


def _check_block(rows: int, columns: int) -> None:
    if rows < 1 or columns < 1:
        raise ValueError(f"a block must have at least 1 row and 1 column, got {rows} x {columns}")
