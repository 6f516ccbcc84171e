"""Matmul of few rows against cuBLAS, by itself and with its epilogue compiled around it."""

from __future__ import annotations

import torch

from tokenwatt_kernels.contests import Contest
from tokenwatt_kernels.matmul.contest import make_contest
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.matmul.skinny.call import answer, key_for, tile_for
from tokenwatt_kernels.matmul.skinny.tiles import FAMILY


def contest(problem: MatmulProblem, dtype_name: str, device: torch.device) -> Contest:
    """Ours, cuBLAS, and torch.compile of the reference."""
    return make_contest(FAMILY, problem, dtype_name, device, answer, key_for, tile_for)
