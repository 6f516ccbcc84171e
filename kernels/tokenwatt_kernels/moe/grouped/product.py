"""One grouped matmul: its tensors together, and the checks that every call makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwatt_kernels import device
from tokenwatt_kernels.arguments import CACHE_DTYPES, FLOAT8, check_device, check_matches, check_size, check_tensor
from tokenwatt_kernels.matmul.activations import check_activation, is_gated, out_columns
from tokenwatt_kernels.matmul.packed.weights import PackedWeight, check_multiplies
from tokenwatt_kernels.matmul.problem import COPY_BYTES
from tokenwatt_kernels.matmul.scaling import BLOCK as SCALE_BLOCK
from tokenwatt_kernels.matmul.scaling import weight_scale_rows
from tokenwatt_kernels.moe.route.options import MOST_EXPERTS
from tokenwatt_kernels.targets import target_for


@dataclass(frozen=True, slots=True)
class Product:
    """R rows sorted by expert times weight [E, N, K] of each row's expert, a tensor or an mxfp4 PackedWeight.

    a: [R, K], or, if it gathers, tokens [T, K] of which row i of the sorted order reads order[i] // (R / T).
    offsets: [E + 1] int32, where each expert's rows begin.
    order: [R] int32, the (token, slot) of each sorted row; None where nothing needs it.
    token_weights: [T, k] fp32; then row i is weighted, and goes to place order[i] instead of i.
    bias: [E, N]. a_scale, weight_scale: fp32 factors of float8 tensors. scales: where they are, "none", "channel"
        (one for a whole tensor too) or "block".
    fast_accumulation: float8 products may stay in the tensor cores' accumulator.
    """

    a: Tensor
    weight: Tensor | PackedWeight
    offsets: Tensor
    order: Tensor | None = None
    token_weights: Tensor | None = None
    bias: Tensor | None = None
    a_scale: Tensor | None = None
    weight_scale: Tensor | None = None
    activation: str = "none"
    fast_accumulation: bool = False

    @property
    def sizes(self) -> tuple[int, int, int]:
        """E, N and K."""
        weight = self.weight
        if isinstance(weight, PackedWeight):
            return weight.words.shape[0], weight.columns, weight.terms
        return weight.shape[0], weight.shape[1], weight.shape[2]

    @property
    def number_format(self) -> str:
        """That of a packed weight, otherwise "none"."""
        return self.weight.number_format if isinstance(self.weight, PackedWeight) else "none"

    @property
    def gathers(self) -> bool:
        """Whether rows are read from tokens."""
        return self.order is not None and self.token_weights is None

    @property
    def combines(self) -> bool:
        """Whether rows are weighted and go to the places of their tokens."""
        return self.token_weights is not None

    @property
    def rows(self) -> int:
        """R"""
        return self.a.shape[0] if self.order is None else self.order.shape[0]

    @property
    def top_k(self) -> int:
        """Rows of a token: R / T where rows are gathered, otherwise 1."""
        return self.rows // max(1, self.a.shape[0]) if self.gathers else 1

    @property
    def out_columns(self) -> int:
        """Columns of an answer."""
        return out_columns(self.activation, self.sizes[1])

    @property
    def out_shape(self) -> tuple[int, int]:
        """Sorted rows, or tokens where it combines, by columns."""
        return (self.rows if self.token_weights is None else self.token_weights.shape[0]), self.out_columns

    @property
    def out_dtype(self) -> torch.dtype:
        """What is stored: the dtype of a, or bfloat16 for float8."""
        return torch.bfloat16 if self.a.dtype == FLOAT8 else self.a.dtype

    @property
    def scales(self) -> str:
        """Where factors are."""
        if self.a_scale is None:
            return "none"
        return "block" if self.a_scale.dim() == 2 else "channel"

    def promotes(self, capability: int) -> bool:
        """Whether sums must leave the tensor cores' accumulator at every step on a GPU of `capability`."""
        is_short = self.a.dtype == FLOAT8 and target_for(capability).shortens_float8_sums
        return is_short and self.scales != "block" and not self.fast_accumulation

    @property
    def allow_descriptors(self) -> bool:
        """Whether the hardware can copy tiles of the weight: its experts lie as one matrix, with aligned rows."""
        weight = self.weight
        if isinstance(weight, PackedWeight):
            return weight.can_be_copied
        row_bytes = weight.stride(1) * weight.element_size()
        is_one_matrix = weight.shape[0] == 1 or weight.stride(0) == weight.shape[1] * weight.stride(1)
        is_aligned = row_bytes % COPY_BYTES == 0 and weight.data_ptr() % COPY_BYTES == 0
        return is_one_matrix and is_aligned and weight.numel() > 0

    def check(self) -> None:
        """Raise TypeError or ValueError unless all shapes, dtypes, strides and devices fit."""
        check_tensor("a", self.a, ("T" if self.gathers else "R", "K"), CACHE_DTYPES)
        device.check_supported(self.a.device)
        if isinstance(self.weight, PackedWeight):
            self._check_packed(self.weight)
        else:
            check_tensor("weight", self.weight, ("E", "N", "K"), CACHE_DTYPES)
            check_matches("weight", self.weight, "a", self.a)
        experts, columns, terms = self.sizes
        check_size("weight", "K", terms, self.a.shape[1])
        if not 1 <= experts <= MOST_EXPERTS:
            raise ValueError(f"weight must have E from 1 to {MOST_EXPERTS}, got {experts}")
        check_activation(self.activation, columns)
        self._check_numbers("offsets", self.offsets, ("E + 1",), torch.int32)
        check_size("offsets", "E + 1", self.offsets.shape[0], experts + 1)
        if self.order is not None:
            self._check_numbers("order", self.order, ("R",), torch.int32)
        if self.gathers and (self.rows > 0) != (self.a.shape[0] > 0):
            raise ValueError(f"order must have rows exactly where a has tokens, got {self.rows} and {self.a.shape[0]}")
        if self.gathers and self.rows % max(1, self.a.shape[0]):
            raise ValueError(f"order must have a multiple of a's {self.a.shape[0]} tokens, got {self.rows} rows")
        if self.token_weights is not None:
            self._check_numbers("token_weights", self.token_weights, ("T", "k"), torch.float32)
            check_size("order", "R", self.rows, self.a.shape[0])
            check_size("token_weights", "T * k", self.token_weights.numel(), self.rows)
        if self.bias is not None:
            check_tensor("bias", self.bias, ("E", "N"))
            check_device("bias", self.bias, "a", self.a)
            check_size("bias", "E", self.bias.shape[0], experts)
            check_size("bias", "N", self.bias.shape[1], columns)
            if self.bias.dtype not in (self.out_dtype, torch.float32):
                raise TypeError(f"bias must have dtype {self.out_dtype} or torch.float32, got {self.bias.dtype}")
        self._check_scales()

    def _check_packed(self, weight: PackedWeight) -> None:
        weight.check("weight", ("E", "K / 128", "N"))
        if weight.number_format != "mxfp4":
            raise ValueError(f"weight must have the format mxfp4 for experts, got {weight.number_format}")
        check_multiplies("a", self.a, weight)

    def _check_scales(self) -> None:
        if self.a.dtype != FLOAT8:
            if self.a_scale is not None or self.weight_scale is not None:
                raise ValueError(f"a_scale and weight_scale must be None for {self.a.dtype}, got a tensor")
            return
        if self.a_scale is None or self.weight_scale is None:
            raise ValueError("a_scale and weight_scale must be tensors for float8_e4m3fn, got None")
        rows, terms = self.a.shape
        experts, columns, _ = self.sizes
        for name, scale in (("a_scale", self.a_scale), ("weight_scale", self.weight_scale)):
            if scale.dtype != torch.float32:
                raise TypeError(f"{name} must have dtype torch.float32, got {scale.dtype}")
            check_device(name, scale, "a", self.a)
            if not scale.is_contiguous():
                raise ValueError(f"{name} must be contiguous, got strides {scale.stride()}")
        blocks = terms // SCALE_BLOCK
        row_blocks = weight_scale_rows(columns, is_gated=is_gated(self.activation))
        a_shape, weight_shape = tuple(self.a_scale.shape), tuple(self.weight_scale.shape)
        of_channels = a_shape in ((1,), (rows,)) and weight_shape in ((experts,), (experts, columns))
        of_blocks = a_shape == (rows, blocks) and weight_shape == (experts, row_blocks, blocks)
        if not of_channels and not (of_blocks and terms % SCALE_BLOCK == 0):
            raise ValueError(
                f"a_scale and weight_scale must have shapes [1] or [{rows}] with [{experts}] or [{experts}, {columns}]"
                f", or for K a multiple of {SCALE_BLOCK} [{rows}, {blocks}] with [{experts}, {row_blocks}, {blocks}], "
                f"got {list(a_shape)} with {list(weight_shape)} and K = {terms}"
            )

    def _check_numbers(self, name: str, tensor: Tensor, dims: tuple[str, ...], dtype: torch.dtype) -> None:
        check_tensor(name, tensor, dims, (dtype,))
        check_device(name, tensor, "a", self.a)
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, got strides {tensor.stride()}")

    def check_values(self) -> None:
        """Raise ValueError unless offsets and order hold what they should. It reads them back to the host."""
        starts = self.offsets.tolist()
        if starts != sorted(starts) or starts[0] != 0 or starts[-1] != self.rows:
            raise ValueError(f"offsets must rise from 0 to R = {self.rows}, got {starts}")
        if self.order is not None and self.rows:
            low, high = (int(bound) for bound in torch.aminmax(self.order))
            if low != 0 or high != self.rows - 1 or len(self.order.unique()) != self.rows:
                raise ValueError(f"order must hold each of 0 to {self.rows - 1} once, got numbers from {low} to {high}")
