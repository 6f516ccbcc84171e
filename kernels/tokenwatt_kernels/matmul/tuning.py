"""A matmul as `tune` measures it, for the families of one weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tokenwatt_kernels.matmul.dispatch import run
from tokenwatt_kernels.matmul.inputs import random_operands
from tokenwatt_kernels.matmul.problem import MatmulProblem


def launcher(family: str, problem: MatmulProblem, dtype_name: str, device: torch.device) -> Callable[[Any], object]:
    """Runs the kernel, or cuBLAS, on one set of random tensors, with any tile."""
    operands = random_operands(problem, dtype_name, device)
    out = operands.new_out()
    return lambda tile: run(family, operands, out, tile)
