"""What a matmul kernel does with a tile of sums before it stores it. The same in plain torch is in `activations`."""

from __future__ import annotations

import math

import triton
import triton.language as tl

from tokenwatt_kernels.matmul import activations

LOG2_E = tl.constexpr(math.log2(math.e))
# gelu(x) = x / (1 + e^-(2 c (x + 0.044715 x^3))) with c = sqrt(2 / pi): Hendrycks and Gimpel, arXiv 1606.08415.
GELU_CUBIC = tl.constexpr(0.044715)
GELU_FACTOR = tl.constexpr(2 * math.sqrt(2 / math.pi))
CLAMPED_SLOPE = tl.constexpr(activations.CLAMPED_SLOPE)
CLAMPED_LIMIT = tl.constexpr(activations.CLAMPED_LIMIT)


@triton.jit
def activate(gate, up, ACTIVATION: tl.constexpr):
    """The gated activation of two fp32 tiles of one shape."""
    # A constant to the left of a tile would make a constant of it in the interpreter.
    if ACTIVATION == "swiglu":
        out = gate * sigmoid(gate) * up
    elif ACTIVATION == "geglu":
        out = gate * sigmoid((gate + gate * gate * gate * GELU_CUBIC) * GELU_FACTOR) * up
    else:
        tl.static_assert(ACTIVATION == "swiglu_clamped")
        gate = tl.minimum(gate, CLAMPED_LIMIT)
        up = tl.maximum(tl.minimum(up, CLAMPED_LIMIT), -CLAMPED_LIMIT)
        out = gate * sigmoid(gate * CLAMPED_SLOPE) * (up + 1.0)
    return out


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x)"""
    return 1.0 / (1.0 + tl.exp2(-x * LOG2_E))


@triton.jit
def pairs_of_columns(tile):
    """A tile [R, 2 C] as its even and its odd columns, [R, C] each."""
    return tl.split(tl.reshape(tile, [tile.shape[0], tile.shape[1] // 2, 2]))


@triton.jit
def pairs_of_rows(tile):
    """A tile [2 R, C] as its even and its odd rows, [R, C] each."""
    return tl.split(tl.permute(tl.reshape(tile, [tile.shape[0] // 2, 2, tile.shape[1]]), (0, 2, 1)))
