"""The arguments of a matmul with a packed weight, checked before anything is launched."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tokenwatt_kernels import device
from tokenwatt_kernels.arguments import FLOAT_DTYPES, check_matches, check_size, check_tensor
from tokenwatt_kernels.matmul.activations import check_activation, out_columns
from tokenwatt_kernels.matmul.packed.weights import PackedWeight, check_multiplies
from tokenwatt_kernels.matmul.problem import COPY_BYTES


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
        return self.weight.columns

    @property
    def k(self) -> int:
        """Terms of a sum."""
        return self.weight.terms

    def new_out(self) -> Tensor:
        """Room for the answer."""
        return self.a.new_empty(self.m, out_columns(self.activation, self.n))

    def can_be_copied(self) -> bool:
        """Whether the hardware can copy tiles of a and of the weight's parts."""
        a = self.a
        return (
            self.weight.can_be_copied
            and a.data_ptr() % COPY_BYTES == 0
            and a.stride(0) >= a.shape[1]  # no expanded row
            and a.stride(0) * a.element_size() % COPY_BYTES == 0
        )

    def check(self) -> None:
        """Raise TypeError or ValueError for arguments that the kernel does not take."""
        a, weight = self.a, self.weight
        check_tensor("a", a, ("M", "K"))
        weight.check("weight", ("K / 128", "N"))
        check_multiplies("a", a, weight)
        check_size("weight", "K", weight.terms, a.shape[1])
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
