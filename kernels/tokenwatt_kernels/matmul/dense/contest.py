"""Dense matmul against torch.matmul, which is cuBLAS on a GPU."""

from __future__ import annotations

import torch

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels import tables
from tokenwatt_kernels.contests import OURS, Contender, Contest
from tokenwatt_kernels.matmul.dense.call import matmul, tile_for
from tokenwatt_kernels.matmul.dense.problems import MatmulProblem
from tokenwatt_kernels.matmul.dense.tiles import FAMILY, make_key
from tokenwatt_kernels.matmul.dense.work import work


def contest(problem: MatmulProblem, dtype_name: str, device: torch.device) -> Contest:
    """Random normal inputs: zeros would draw less power and so run faster."""
    dtype = getattr(torch, dtype_name)
    generator = torch.Generator(device).manual_seed(0)
    a = torch.randn(problem.m, problem.k, generator=generator, device=device, dtype=dtype)
    weight = torch.randn(problem.n, problem.k, generator=generator, device=device, dtype=dtype)
    return Contest(
        family=FAMILY,
        problem=problem.name,
        dtype_name=dtype_name,
        terms=problem.terms,
        work=work(problem, dtype_name),
        contenders={
            OURS: Contender(lambda: matmul(a, weight)),
            "torch_matmul": Contender(lambda: torch.matmul(a, weight.T)),
        },
        configuration=_configuration(a) if device.type == "cuda" else "",
    )


def _configuration(a: torch.Tensor) -> str:
    tile = tile_for(a)
    key = make_key(a.shape[0], a.element_size())
    return f"{tile.name} ({tables.origin(device_facts.name(a.device), FAMILY, key, tile)})"
