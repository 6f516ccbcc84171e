"""Dense matmul in plain torch: the truth that the kernel is held to, and the CPU path of the engine."""

from __future__ import annotations

from torch import Tensor


def matmul_reference(a: Tensor, weight: Tensor) -> Tensor:
    """a [M, K] @ weight[N, K].T -> [M, N], in the dtype of a."""
    return a @ weight.T
