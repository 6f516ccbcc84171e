"""Every gated activation of a tile, in pairs of columns and of rows, as JSON: how far it is from the reference."""

from __future__ import annotations

import json

import torch
import triton
import triton.language as tl

from tokenwatt_kernels import interpreter
from tokenwatt_kernels.matmul.activations import ACTIVATIONS, activate_reference, is_gated
from tokenwatt_kernels.matmul.epilogue import activate, pairs_of_columns, pairs_of_rows

ROWS, PAIRS = tl.constexpr(4), tl.constexpr(16)


@triton.jit
def _columns_kernel(tile_ptr, out_ptr, ACTIVATION: tl.constexpr):
    rows, columns, outs = tl.arange(0, ROWS), tl.arange(0, 2 * PAIRS), tl.arange(0, PAIRS)
    gate, up = pairs_of_columns(tl.load(tile_ptr + rows[:, None] * 2 * PAIRS + columns[None, :]))
    tl.store(out_ptr + rows[:, None] * PAIRS + outs[None, :], activate(gate, up, ACTIVATION))


@triton.jit
def _rows_kernel(tile_ptr, out_ptr, ACTIVATION: tl.constexpr):
    rows, columns, outs = tl.arange(0, ROWS), tl.arange(0, 2 * PAIRS), tl.arange(0, PAIRS)
    gate, up = pairs_of_rows(tl.load(tile_ptr + rows[None, :] * 2 * PAIRS + columns[:, None]))
    tl.store(out_ptr + rows[None, :] * PAIRS + outs[:, None], activate(gate, up, ACTIVATION))


def main() -> None:
    """Values far enough from zero to saturate and to clamp."""
    interpreter.enable()
    tile = torch.linspace(-9.0, 9.0, ROWS.value * 2 * PAIRS.value).reshape(ROWS.value, 2 * PAIRS.value)
    tile = tile[:, torch.randperm(2 * PAIRS.value, generator=torch.Generator().manual_seed(0))].contiguous()
    answers = {}
    for activation in filter(is_gated, ACTIVATIONS):
        for name, kernel in (("columns", _columns_kernel), ("rows", _rows_kernel)):
            out = torch.empty(ROWS.value, PAIRS.value)
            kernel[(1,)](tile, out, tl.constexpr(activation))
            wanted = activate_reference(tile.double(), activation)
            answers[f"{activation} {name}"] = float((out - wanted).abs().max() / wanted.abs().max())
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
