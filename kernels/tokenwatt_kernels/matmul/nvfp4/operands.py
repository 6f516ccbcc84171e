"""The arguments of a matmul of NVFP4 numbers, checked before anything is launched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwatt_kernels import device
from tokenwatt_kernels.arguments import FLOAT8, check_device, check_size, check_tensor
from tokenwatt_kernels.matmul.activations import check_activation, out_columns
from tokenwatt_kernels.matmul.problem import COPY_BYTES
from tokenwatt_kernels.number_formats.nvfp4 import GROUP

OUT_DTYPE = torch.bfloat16


@dataclass(frozen=True, slots=True)
class Nvfp4Operands:
    """out [M, N or N / 2] = activation(a [M, K] @ weight[N, K].T + bias [N]) + residual, of the shape of out.

    a, weight: codes uint8 [M, K / 2] and [N, K / 2]. a_scale, weight_scale: float8_e4m3fn [M, K / 16] and [N, K / 16].
    a_tensor_scale, weight_tensor_scale: fp32 [1]. All as number_formats.nvfp4.Nvfp4 has them.
    """

    a: Tensor
    weight: Tensor
    a_scale: Tensor
    weight_scale: Tensor
    a_tensor_scale: Tensor
    weight_tensor_scale: Tensor
    bias: Tensor | None = None
    residual: Tensor | None = None
    activation: str = "none"

    @property
    def m(self) -> int:
        """Rows of a and of out."""
        return self.a.shape[0]

    @property
    def n(self) -> int:
        """Rows of the weight, columns of the product."""
        return self.weight.shape[0]

    @property
    def k(self) -> int:
        """Terms of a sum."""
        return 2 * self.a.shape[1]

    def new_out(self) -> Tensor:
        """Room for the answer."""
        return self.a.new_empty(self.m, out_columns(self.activation, self.n), dtype=OUT_DTYPE)

    def can_be_copied(self) -> bool:
        """Whether the hardware can copy tiles of codes and scales."""
        return self.k > 0 and all(
            tensor.data_ptr() % COPY_BYTES == 0
            and tensor.stride(0) >= tensor.shape[1]  # no expanded row
            and tensor.stride(0) % COPY_BYTES == 0
            for tensor in (self.a, self.weight, self.a_scale, self.weight_scale)
        )

    def check(self) -> None:
        """Raise TypeError or ValueError for arguments that the kernel does not take."""
        a, weight = self.a, self.weight
        check_tensor("a", a, ("M", "K / 2"), (torch.uint8,))
        check_tensor("weight", weight, ("N", "K / 2"), (torch.uint8,))
        check_device("weight", weight, "a", a)
        check_size("weight", "K", 2 * weight.shape[1], self.k)
        if self.k % GROUP:
            raise ValueError(f"a must have K divisible by {GROUP}, got {self.k}")
        check_activation(self.activation, self.n)
        for name, rows in (("a", self.m), ("weight", self.n)):
            scale, tensor_scale = getattr(self, f"{name}_scale"), getattr(self, f"{name}_tensor_scale")
            axis = "M" if name == "a" else "N"
            check_tensor(f"{name}_scale", scale, (axis, "K / 16"), (FLOAT8,))
            check_device(f"{name}_scale", scale, "a", a)
            check_size(f"{name}_scale", axis, scale.shape[0], rows)
            check_size(f"{name}_scale", "K / 16", scale.shape[1], self.k // GROUP)
            check_tensor(f"{name}_tensor_scale", tensor_scale, ("1",), (torch.float32,))
            check_device(f"{name}_tensor_scale", tensor_scale, "a", a)
            check_size(f"{name}_tensor_scale", "size", tensor_scale.shape[0], 1)
        if self.bias is not None:
            check_tensor("bias", self.bias, ("N",), (OUT_DTYPE,))
            check_device("bias", self.bias, "a", a)
            check_size("bias", "N", self.bias.shape[0], self.n)
        if self.residual is not None:
            check_tensor("residual", self.residual, ("M", "N"), (OUT_DTYPE,))
            check_device("residual", self.residual, "a", a)
            check_size("residual", "M", self.residual.shape[0], self.m)
            check_size("residual", "N", self.residual.shape[1], out_columns(self.activation, self.n))
        device.check_supported(a.device)
