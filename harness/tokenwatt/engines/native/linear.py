"""Products with a weight in any of the formats that it may be kept in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwatt_kernels.fused.norm.call import quantise_activations
from tokenwatt_kernels.fused.norm.tiles import MAX_WIDTH
from tokenwatt_kernels.matmul.call import matmul
from tokenwatt_kernels.matmul.packed.call import packed_matmul
from tokenwatt_kernels.matmul.packed.weights import PackedWeight
from tokenwatt_kernels.number_formats.float8 import scale_of, to_float8


@dataclass(frozen=True, slots=True)
class Float8:
    """Numbers codes [..., K] * scales [...]: a scale for each token of activations, each output channel of a weight."""

    codes: Tensor
    scales: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Float8:
        """x [..., K], rounded; without a look at its values, for which a host would have to wait."""
        scales = scale_of(x.abs().amax(-1))
        return cls(to_float8(x, scales[..., None]), scales)

    @classmethod
    def of_tokens(cls, x: Tensor) -> Float8:
        """The same of activations [T, K]: in one launch, where a program can hold a row."""
        return cls(*quantise_activations(x)) if x.shape[1] <= MAX_WIDTH else cls.of(x)


Weight = Tensor | Float8 | PackedWeight
"""[N, K], or [E, N, K] of E experts."""


@dataclass(frozen=True, slots=True)
class Linear:
    """activation(x @ weight.T + bias) + residual."""

    weight: Weight
    bias: Tensor | None = None
    activation: str = "none"
    """One of `tokenwatt_kernels.matmul.activations`; of a gated one the weight's rows are gate and up in turns."""

    @property
    def takes_float8(self) -> bool:
        """Whether activations are multiplied in float8."""
        return isinstance(self.weight, Float8)

    def __call__(self, x: Tensor | Float8, residual: Tensor | None = None) -> Tensor:
        """[T, N], or [T, N / 2] of a gated activation, for x [T, K]."""
        weight = self.weight
        if isinstance(weight, Float8):
            rows = x if isinstance(x, Float8) else Float8.of_tokens(x)
            return matmul(
                rows.codes, weight.codes, self.bias, residual, rows.scales, weight.scales, activation=self.activation
            )
        assert isinstance(x, torch.Tensor)
        if isinstance(weight, PackedWeight):
            return packed_matmul(x, weight, self.bias, residual, activation=self.activation)
        return matmul(x, weight, self.bias, residual, activation=self.activation)
