"""A matmul with a packed weight beside cuBLAS with the same weight in 16 bits, and beside PyTorch's int4 kernel."""

from __future__ import annotations

from collections.abc import Callable

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

MOST_INNER_TILES = 8
"""16s of terms that lie together in PyTorch's layout: the fewest loads."""


def contest(problem: PackedProblem, dtype_name: str, device: torch.device) -> Contest:
    """Ours, and with the epilogue in eager torch the baselines.

    cublas: the weight unpacked beforehand, so four times as many bytes of it.
    int4pack: PyTorch's own kernel, which takes bfloat16 and int4.
    """
    operands = random_operands(problem, dtype_name, device)
    wide = unpacked(operands, operands.a.dtype)
    contenders = {OURS: Contender(lambda: answer(operands)), "cublas": Contender(lambda: library_matmul(wide))}
    if problem.number_format == "int4" and operands.a.dtype == torch.bfloat16:
        multiply = _int4pack(operands.weight)
        contenders["int4pack"] = Contender(lambda: _finished(operands, multiply(operands.a)))
    return Contest(
        family=FAMILY,
        problem=problem.name,
        dtype_name=dtype_name,
        terms=problem.terms,
        work=work(problem, dtype_name),
        contenders=contenders,
        configuration=_configuration(operands) if device.type == "cuda" else "",
    )


def _int4pack(weight: PackedWeight) -> Callable[[Tensor], Tensor]:
    """The product with a weight in PyTorch's layout, which is another one on a CPU.

    There a number is (code - 8) * scale + zero, both bfloat16 [K / 128, N, 2].
    """
    codes, zeros, scales = int4_parts(weight)
    pairs = torch.stack([scales, (8 - zeros) * scales], -1).transpose(0, 1).contiguous().to(torch.bfloat16)
    if codes.is_cpu:
        packed = torch._convert_weight_to_int4pack_for_cpu(codes, MOST_INNER_TILES)
        return lambda a: torch._weight_int4pack_mm_for_cpu(a, packed, GROUP, pairs)
    packed = torch._convert_weight_to_int4pack((codes[:, 0::2] << 4 | codes[:, 1::2]).to(torch.uint8), MOST_INNER_TILES)
    return lambda a: torch._weight_int4pack_mm(a, packed, GROUP, pairs)


def _finished(operands: PackedOperands, product: Tensor) -> Tensor:
    if operands.bias is not None:
        product += operands.bias
    out = activate_reference(product, operands.activation)
    return out if operands.residual is None else out + operands.residual


def _configuration(operands: PackedOperands) -> str:
    """The tile and where it comes from."""
    tile, gpu_name = tile_for(operands), device_facts.name(operands.a.device)
    return f"{tile.name} ({tables.origin(gpu_name, FAMILY, key_for(operands), tile)})"
