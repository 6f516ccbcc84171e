"""The arguments of a matmul with a packed weight, checked before anything is launched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwatt_kernels import device
from tokenwatt_kernels.arguments import FLOAT_DTYPES, check_device, check_matches, check_size, check_tensor
from tokenwatt_kernels.matmul.activations import check_activation, out_columns
from tokenwatt_kernels.matmul.packed.weights import PackedWeight
from tokenwatt_kernels.matmul.problem import COPY_BYTES

GPU_DTYPES = {"int4": (torch.float16, torch.bfloat16), "mxfp4": (torch.bfloat16,)}
"""What a weight may be multiplied with on a GPU. A CPU takes float32 too, of any weight."""


@dataclass(frozen=True, slots=True)
class PackedOperands:
    """out [M, N or N / 2] = activation(a [M, K] @ weight[N, K].T + bias [N]) + residual, of the shape of out."""

    a: Tensor
    weight: PackedWeight
    bias: Tensor | None = None
    residual: Tensor | None = None
    activation: str = "none"

    @property
    def m(self) -> int:
        """Rows of a and of out."""
        return self.a.shape[0]

    @property
    def n(self) -> int:
        """Columns of the product."""
        return self.weight.words.shape[1]

    @property
    def k(self) -> int:
        """Terms of a sum."""
        return self.weight.terms

    def new_out(self) -> Tensor:
        """Room for the answer."""
        return self.a.new_empty(self.m, out_columns(self.activation, self.n))

    def can_be_copied(self) -> bool:
        """Whether the hardware can copy tiles of a and of the weight's parts, whose rows must be whole 16 bytes."""
        a, scales = self.a, self.weight.scales
        return (
            self.k > 0
            and all(
                tensor.data_ptr() % COPY_BYTES == 0 and tensor.stride(0) * tensor.element_size() % COPY_BYTES == 0
                for tensor in (a, scales, self.weight.words)
            )
            and a.stride(0) >= a.shape[1]
        )  # no expanded row

    def check(self) -> None:
        """Raise TypeError or ValueError for arguments that the kernel does not take."""
        a, weight = self.a, self.weight
        check_tensor("a", a, ("M", "K"))
        weight.check("weight")
        if weight.words.dim() != 3:
            raise ValueError(f"weight.words must have shape [K / 128, N, 32], got {list(weight.words.shape)}")
        check_device("weight", weight.words, "a", a)
        check_size("weight", "K", weight.terms, a.shape[1])
        if a.device.type == "cuda" and a.dtype not in GPU_DTYPES[weight.number_format]:
            allowed = " or ".join(map(str, GPU_DTYPES[weight.number_format]))
            raise TypeError(f"a must have dtype {allowed} beside an {weight.number_format} weight, got {a.dtype}")
        check_activation(self.activation, self.n)
        if self.bias is not None:
            check_tensor("bias", self.bias, ("N",), FLOAT_DTYPES)
            check_matches("bias", self.bias, "a", a)
            check_size("bias", "N", self.bias.shape[0], self.n)
        if self.residual is not None:
            check_tensor("residual", self.residual, ("M", "N"), FLOAT_DTYPES)
            check_matches("residual", self.residual, "a", a)
            check_size("residual", "M", self.residual.shape[0], self.m)
            check_size("residual", "N", self.residual.shape[1], out_columns(self.activation, self.n))
        device.check_supported(a.device)
