"""A matmul beside cuBLAS, for the families of one weight."""

from __future__ import annotations

import torch

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels import tables
from tokenwatt_kernels.contests import OURS, Contender, Contest, compiled
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.dispatch import answer, key_for, tile_for
from tokenwatt_kernels.matmul.inputs import random_operands
from tokenwatt_kernels.matmul.library import library_matmul
from tokenwatt_kernels.matmul.operands import Operands
from tokenwatt_kernels.matmul.problem import MatmulProblem, work
from tokenwatt_kernels.matmul.reference import matmul_reference


def make_contest(family: str, problem: MatmulProblem, dtype_name: str, device: torch.device) -> Contest:
    """Ours and cuBLAS with the epilogue in eager torch; where there is one, also with the epilogue compiled.

    cublas: torch.matmul or torch._scaled_mm. compiled: torch.compile of the same, which fuses what follows cuBLAS.
    reference: float8 with scales in blocks has no baseline in torch, so its own reference judges it.
    """
    operands = random_operands(problem, dtype_name, device)
    contenders = {OURS: Contender(lambda: answer(family, operands))}
    if device.type == "cuda" and problem.scaling != "block":
        contenders["cublas"] = Contender(lambda: library_matmul(operands))
        if problem.activation != "none" or problem.has_residual:
            fused = compiled(library_matmul)
            contenders["compiled"] = Contender(lambda: fused(operands), is_compiled=True)
    else:
        contenders["reference"] = Contender(lambda: matmul_reference(operands))
    return Contest(
        family=family,
        problem=problem.name,
        dtype_name=dtype_name,
        terms=problem.terms,
        work=work(problem, dtype_name),
        contenders=contenders,
        configuration=_configuration(family, operands) if device.type == "cuda" else "",
        held_to=DTYPES[dtype_name].out_name,
    )


def _configuration(family: str, operands: Operands) -> str:
    """The tile and where it comes from."""
    out = operands.new_out()
    tile = tile_for(family, operands, out)
    gpu_name = device_facts.name(operands.a.device)
    return f"{tile.name} ({tables.origin(gpu_name, family, key_for(family, operands, out), tile)})"
