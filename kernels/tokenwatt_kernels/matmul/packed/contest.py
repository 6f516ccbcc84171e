"""A matmul with a packed weight beside cuBLAS with the same weight in 16 bits, and beside PyTorch's int4 kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels import tables
from tokenwatt_kernels.contests import OURS, Contender, Contest
from tokenwatt_kernels.matmul.activations import activate_reference
from tokenwatt_kernels.matmul.library import library_matmul
from tokenwatt_kernels.matmul.packed.call import answer, key_for, tile_for
from tokenwatt_kernels.matmul.packed.inputs import random_operands
from tokenwatt_kernels.matmul.packed.operands import PackedOperands
from tokenwatt_kernels.matmul.packed.problems import PackedProblem
from tokenwatt_kernels.matmul.packed.reference import unpacked
from tokenwatt_kernels.matmul.packed.tiles import FAMILY
from tokenwatt_kernels.matmul.packed.weights import PackedWeight, int4_parts
from tokenwatt_kernels.matmul.packed.work import work
from tokenwatt_kernels.number_formats.int4 import GROUP

INNER_TILES = 8
"""Of PyTorch's int4 layout: terms of a row that a thread holds, in 16s; the most that it takes."""


def contest(problem: PackedProblem, dtype_name: str, device: torch.device) -> Contest:
    """Ours, and with the epilogue in eager torch the baselines.

    cublas: the weight unpacked beforehand, so four times as many bytes of it.
    int4pack: torch._weight_int4pack_mm, which takes bfloat16 and int4.
    """
    operands = random_operands(problem, dtype_name, device)
    wide = unpacked(operands, operands.a.dtype)
    contenders = {OURS: Contender(lambda: answer(operands)), "cublas": Contender(lambda: library_matmul(wide))}
    if device.type == "cuda" and problem.number_format == "int4" and operands.a.dtype == torch.bfloat16:
        weight, scales_and_zeros = _for_int4pack(operands.weight)
        contenders["int4pack"] = Contender(
            lambda: _finished(operands, torch._weight_int4pack_mm(operands.a, weight, GROUP, scales_and_zeros))
        )
    return Contest(
        family=FAMILY,
        problem=problem.name,
        dtype_name=dtype_name,
        terms=problem.terms,
        work=work(problem, dtype_name),
        contenders=contenders,
        configuration=_configuration(operands) if device.type == "cuda" else "",
    )


def _for_int4pack(weight: PackedWeight) -> tuple[Tensor, Tensor]:
    """A weight in PyTorch's layout. There a number is (code - 8) * scale + zero, both bfloat16 [K / 128, N, 2]."""
    codes, zeros, scales = int4_parts(weight)
    pairs = (codes[:, 0::2] << 4 | codes[:, 1::2]).to(torch.uint8)
    shift = (8 - zeros) * scales
    both = torch.stack([scales, shift], -1).transpose(0, 1).contiguous().to(torch.bfloat16)
    return torch._convert_weight_to_int4pack(pairs, INNER_TILES), both


def _finished(operands: PackedOperands, product: Tensor) -> Tensor:
    if operands.bias is not None:
        product += operands.bias
    out = activate_reference(product, operands.activation)
    return out if operands.residual is None else out + operands.residual


def _configuration(operands: PackedOperands) -> str:
    """The tile and where it comes from."""
    tile, gpu_name = tile_for(operands), device_facts.name(operands.a.device)
    return f"{tile.name} ({tables.origin(gpu_name, FAMILY, key_for(operands), tile)})"
