"""The arguments of a matmul, checked before anything is launched."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenwatt_kernels import device
from tokenwatt_kernels.arguments import (
    CACHE_DTYPES,
    FLOAT8,
    FLOAT_DTYPES,
    check_device,
    check_matches,
    check_size,
    check_tensor,
)
from tokenwatt_kernels.matmul.activations import check_activation, is_gated, out_columns
from tokenwatt_kernels.matmul.problem import COPY_BYTES
from tokenwatt_kernels.matmul.scaling import a_scale_shape, scaling_of, weight_scale_shape
from tokenwatt_kernels.targets import target_for

if TYPE_CHECKING:
    from triton.tools.tensor_descriptor import TensorDescriptor


@dataclass(frozen=True, slots=True)
class Operands:
    """out [M, N or N / 2] = activation(a [M, K] @ weight[N, K].T + bias [N]) + residual, of the shape of out.

    a_scale, weight_scale: fp32, of float8 operands alone, in one of the shapes of `scaling`.
    fast_accumulation: float8 products may stay in the tensor cores' accumulator, which keeps some 14 bits on sm_89 and
        sm_90; otherwise they leave it for an fp32 sum at every step along K.
    """

    a: Tensor
    weight: Tensor
    bias: Tensor | None = None
    residual: Tensor | None = None
    a_scale: Tensor | None = None
    weight_scale: Tensor | None = None
    activation: str = "none"
    fast_accumulation: bool = False

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
        return self.a.shape[1]

    @property
    def out_dtype(self) -> torch.dtype:
        """bfloat16 for float8, else that of a."""
        return torch.bfloat16 if self.a.dtype == FLOAT8 else self.a.dtype

    @property
    def is_gated(self) -> bool:
        """Whether the weight's rows are those of gate and up in turns."""
        return is_gated(self.activation)

    @property
    def scaling(self) -> str:
        """A key of scaling.SCALINGS."""
        return "none" if self.weight_scale is None else scaling_of(self.weight_scale)

    def promotes(self, capability: int) -> bool:
        """Whether sums must leave the tensor cores' accumulator at every step on a GPU of `capability`."""
        is_short = self.a.dtype == FLOAT8 and target_for(capability).shortens_float8_sums
        return is_short and not self.fast_accumulation

    def new_out(self) -> Tensor:
        """Room for the answer."""
        return self.a.new_empty(self.m, out_columns(self.activation, self.n), dtype=self.out_dtype)

    def can_be_copied(self, out: Tensor) -> bool:
        """Whether the hardware can copy tiles of a, of the weight and of the output."""
        return self.k > 0 and all(
            tensor.data_ptr() % COPY_BYTES == 0
            and tensor.stride(0) >= tensor.shape[1]  # no expanded row
            and tensor.stride(0) * tensor.element_size() % COPY_BYTES == 0
            for tensor in (self.a, self.weight, out)
        )

    def scale_strides(self) -> tuple[int, int, int, int]:
        """From row to row and from block to block along K, of a_scale and of weight_scale; 0 where one scale serves."""
        strides = []
        for scale in (self.a_scale, self.weight_scale):
            is_one = scale is None or scale.numel() == 1
            strides += [0, 0] if is_one else [scale.stride(0), scale.stride(1) if scale.dim() == 2 else 0]
        return tuple(strides)

    def check(self) -> None:
        """Raise TypeError or ValueError for arguments that the kernels do not take."""
        a, weight = self.a, self.weight
        check_tensor("a", a, ("M", "K"), CACHE_DTYPES)
        check_tensor("weight", weight, ("N", "K"), CACHE_DTYPES)
        check_matches("weight", weight, "a", a)
        check_size("weight", "K", weight.shape[1], self.k)
        check_activation(self.activation, self.n)
        self._check_scales()
        if self.bias is not None:
            check_tensor("bias", self.bias, ("N",), FLOAT_DTYPES)
            self._check_like_out("bias", self.bias)
            check_size("bias", "N", self.bias.shape[0], self.n)
        if self.residual is not None:
            check_tensor("residual", self.residual, ("M", "N"), FLOAT_DTYPES)
            self._check_like_out("residual", self.residual)
            check_size("residual", "M", self.residual.shape[0], self.m)
            check_size("residual", "N", self.residual.shape[1], out_columns(self.activation, self.n))
        device.check_supported(a.device)

    def _check_like_out(self, name: str, value: Tensor) -> None:
        if value.dtype != self.out_dtype:
            raise TypeError(f"{name} must have the dtype of the output, {self.out_dtype}, got {value.dtype}")
        check_device(name, value, "a", self.a)

    def _check_scales(self) -> None:
        scales = {"a_scale": self.a_scale, "weight_scale": self.weight_scale}
        if self.a.dtype != FLOAT8:
            for name, scale in scales.items():
                if scale is not None:
                    raise ValueError(f"{name} must be None for {self.a.dtype}, which has no scales, got a tensor")
            return
        for name, scale in scales.items():
            if scale is None:
                raise ValueError(f"{name} must be a tensor for float8_e4m3fn, got None")
            if scale.dtype != torch.float32:
                raise TypeError(f"{name} must have dtype torch.float32, got {scale.dtype}")
            check_device(name, scale, "a", self.a)
        assert self.a_scale is not None
        assert self.weight_scale is not None
        scaling = self.scaling
        shape_of = partial(weight_scale_shape, n=self.n, k=self.k, is_gated=self.is_gated)
        if tuple(self.weight_scale.shape) != shape_of(scaling):
            rows = "2 (N / 256)" if self.is_gated else "N / 128"
            raise ValueError(
                f"weight_scale must have shape [1], [N] = [{self.n}] or [{rows}, K / 128] = {list(shape_of('block'))},"
                f" got {list(self.weight_scale.shape)}"
            )
        allowed = [a_scale_shape(scaling, self.m, self.k)]
        if scaling != "block":
            allowed = [(1,), (self.m,)]
        if tuple(self.a_scale.shape) not in allowed:
            raise ValueError(
                f"a_scale must have shape {' or '.join(str(list(shape)) for shape in allowed)} beside a weight_scale of"
                f" {list(self.weight_scale.shape)}, got {list(self.a_scale.shape)}"
            )


def descriptor(tensor: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """What the hardware copies tiles [rows, columns] of a matrix with."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor(tensor, list(tensor.shape), [tensor.stride(0), 1], [rows, columns])
