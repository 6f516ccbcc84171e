"""The product of activations with a weight in the layout of nn.Linear."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels import device, tables
from tokenwatt_kernels.arguments import check_matches, check_size, check_tensor
from tokenwatt_kernels.matmul.dense.cpu import matmul_on_cpu
from tokenwatt_kernels.matmul.dense.tiles import FAMILY, MatmulTile, make_key


def tile_for(a: Tensor) -> MatmulTile:
    """The tile for a [M, K] on a GPU."""
    key = make_key(a.shape[0], a.element_size())
    return tables.tile_on(FAMILY, device.name(a.device), device.capability(a.device), key)


def matmul(a: Tensor, weight: Tensor) -> Tensor:
    """a @ weight.T, accumulated in fp32.

    a: [M, K], weight: [N, K], one of float32, float16 or bfloat16, each contiguous along K. Any size, zero included.

    Returns [M, N] in the dtype of a: the Triton kernel's answer on CUDA, torch's own product on a CPU.
    Raises TypeError or ValueError, before any launch, for arguments other than these.
    """
    check_tensor("a", a, ("M", "K"))
    check_tensor("weight", weight, ("N", "K"))
    check_matches("weight", weight, "a", a)
    check_size("weight", "K", weight.shape[1], a.shape[1])
    device.check_supported(a.device)
    if a.device.type == "cpu":
        return matmul_on_cpu(a, weight)

    from tokenwatt_kernels.matmul.dense.kernel import launch

    out = torch.empty(a.shape[0], weight.shape[0], dtype=a.dtype, device=a.device)
    launch(a, weight, out, tile_for(a))
    return out
