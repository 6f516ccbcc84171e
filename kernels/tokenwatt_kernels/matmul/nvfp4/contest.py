"""A matmul of NVFP4 numbers beside cuBLAS with the same numbers in bfloat16."""

from __future__ import annotations

import torch

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels import tables
from tokenwatt_kernels.contests import OURS, Contender, Contest
from tokenwatt_kernels.matmul.library import library_matmul
from tokenwatt_kernels.matmul.nvfp4.call import answer, key_for, tile_for
from tokenwatt_kernels.matmul.nvfp4.inputs import random_operands
from tokenwatt_kernels.matmul.nvfp4.operands import OUT_DTYPE, Nvfp4Operands
from tokenwatt_kernels.matmul.nvfp4.problems import Nvfp4Problem
from tokenwatt_kernels.matmul.nvfp4.reference import unpacked
from tokenwatt_kernels.matmul.nvfp4.tiles import FAMILY
from tokenwatt_kernels.matmul.nvfp4.work import work


def contest(problem: Nvfp4Problem, dtype_name: str, device: torch.device) -> Contest:
    """Ours and cuBLAS, for which all numbers are unpacked beforehand, with the epilogue in eager torch."""
    operands = random_operands(problem, device)
    wide = unpacked(operands, OUT_DTYPE)
    return Contest(
        family=FAMILY,
        problem=problem.name,
        dtype_name=dtype_name,
        terms=problem.terms,
        work=work(problem, dtype_name),
        contenders={OURS: Contender(lambda: answer(operands)), "cublas": Contender(lambda: library_matmul(wide))},
        configuration=_configuration(operands) if device.type == "cuda" else "",
    )


def _configuration(operands: Nvfp4Operands) -> str:
    """The tile and where it comes from."""
    tile, gpu_name = tile_for(operands), device_facts.name(operands.a.device)
    return f"{tile.name} ({tables.origin(gpu_name, FAMILY, key_for(operands), tile)})"
