"""Products of rows sorted by expert with one weight per expert."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels import device, tables
from tokenwatt_kernels.arguments import FLOAT8, check_device, check_size, check_tensor
from tokenwatt_kernels.matmul.packed.weights import PackedWeight, check_aligned
from tokenwatt_kernels.moe.grouped.product import Product
from tokenwatt_kernels.moe.grouped.reference import reference_answer
from tokenwatt_kernels.moe.grouped.tiles import FAMILY, GroupedKey, GroupedTile, make_key
from tokenwatt_kernels.operators import operator


def key_for(product: Product) -> GroupedKey:
    """What the tile for a product depends on besides the GPU."""
    return make_key(
        product.rows,
        product.sizes[0],
        product.a.element_size(),
        is_mxfp4=product.number_format == "mxfp4",
        block_scaled=product.scales == "block",
        is_fast=product.fast_accumulation,
        copies=product.allow_descriptors,
    )


def tile_for(product: Product) -> GroupedTile:
    """The tile for a product on a GPU."""
    where = product.a.device
    return tables.tile_on(FAMILY, device.name(where), device.capability(where), key_for(product))


def answer(product: Product, residual: Tensor | None = None) -> Tensor:
    """Sorted rows, or sums over tokens' rows, of a checked product: the kernel's on CUDA, the reference's on a CPU."""
    if product.a.device.type == "cpu":
        dtype = torch.float32 if product.a.dtype == FLOAT8 else product.a.dtype
        return reference_answer(product, residual, dtype).to(product.out_dtype)
    if product.a.dtype == FLOAT8:
        device.check_float8(product.a.device, is_mixed=False)
    if isinstance(product.weight, PackedWeight):
        check_aligned("weight", product.weight)

    from tokenwatt_kernels.moe.grouped.kernel import launch

    tile = tile_for(product)
    out = product.a.new_empty(product.out_shape, dtype=product.out_dtype)
    where = product.a.device
    programs = tile.programs_per_multiprocessor * device.multiprocessors(where)
    launch(product, residual, out, tile, programs, promotes=product.promotes(device.capability(where)))
    return out


def _fake_grouped_matmul(
    a: Tensor,
    weight: Tensor,
    offsets: Tensor,
    order: Tensor | None = None,
    bias: Tensor | None = None,
    a_scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
    *,
    activation: str = "none",
    fast_accumulation: bool = False,
    validate: bool = False,
) -> Tensor:
    product = Product(
        a, weight, offsets, order, None, bias, a_scale, weight_scale, activation, fast_accumulation
    )  # fmt: skip
    product.check()
    return a.new_empty(product.out_shape, dtype=product.out_dtype)


@operator(_fake_grouped_matmul)
def grouped_matmul(
    a: Tensor,
    weight: Tensor,
    offsets: Tensor,
    order: Tensor | None = None,
    bias: Tensor | None = None,
    a_scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
    *,
    activation: str = "none",
    fast_accumulation: bool = False,
    validate: bool = False,
) -> Tensor:
    """activation(row @ weight[expert].T + bias[expert]) for rows sorted by expert, accumulated in fp32.

    a: tokens [T, K] if `order` is given, of which row i is a[order[i] // (R / T)] and is never copied; otherwise the
        sorted rows [R, K]. One of float32, float16, bfloat16 or float8_e4m3fn, contiguous along K.
    weight: [E, N, K] in the dtype of a; E up to 512.
    offsets: [E + 1] int32, where each expert's rows begin; an expert may have none. order: [R] int32. Both as in
        `Routing`.
    bias: [E, N] in the dtype of the answer, or fp32.
    a_scale, weight_scale: fp32 factors of float8: [1] or one for each row of a, with [E] or [E, N]; or, for each 128 of
        K, [rows of a, K / 128] with [E, N / 128, K / 128]. Of a gated activation the latter are those of gate and up in
        turns, [E, 2 (N / 256), K / 128], as the weight's rows are.
    activation: of `matmul.activations`; a gated one takes columns of gate and up in turns.
    fast_accumulation: leave float8 sums in the tensor cores' accumulator, which keeps some 14 bits on sm_89 and sm_90.
        Otherwise they leave it for an fp32 sum every 128 terms there, as sums of blocks always do.
    validate: read offsets and order back to the host, which waits for the GPU, and check their values too. On a CPU
        they always are checked; on a GPU they are trusted otherwise, so that a CUDA graph may capture the call.

    Returns the sorted rows, [R, N] or [R, N / 2], in the dtype of a, or bfloat16 for float8.
    Raises TypeError or ValueError, before any launch, for arguments other than these.
    """
    product = Product(
        a, weight, offsets, order, None, bias, a_scale, weight_scale, activation, fast_accumulation
    )  # fmt: skip
    product.check()
    if validate or a.device.type == "cpu":
        product.check_values()
    return answer(product)


def _check_residual(product: Product, residual: Tensor | None) -> None:
    if residual is not None:
        check_tensor("residual", residual, ("T", "N"), (product.out_dtype,))
        check_device("residual", residual, "a", product.a)
        for axis, name in enumerate(("T", "N")):
            check_size("residual", name, residual.shape[axis], product.out_shape[axis])


def _fake_grouped_matmul_combine(
    a: Tensor,
    weight: Tensor,
    offsets: Tensor,
    order: Tensor,
    token_weights: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    a_scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
    *,
    fast_accumulation: bool = False,
    validate: bool = False,
) -> Tensor:
    product = Product(
        a, weight, offsets, order, token_weights, bias, a_scale, weight_scale, fast_accumulation=fast_accumulation
    )
    product.check()
    _check_residual(product, residual)
    return a.new_empty(product.out_shape, dtype=product.out_dtype)


@operator(_fake_grouped_matmul_combine)
def grouped_matmul_combine(
    a: Tensor,
    weight: Tensor,
    offsets: Tensor,
    order: Tensor,
    token_weights: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    a_scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
    *,
    fast_accumulation: bool = False,
    validate: bool = False,
) -> Tensor:
    """For each token the sum over its rows of token_weights * (row @ weight[expert].T + bias[expert]), plus residual.

    a: sorted rows [R, K]. order: [R] int32, token * k + slot of each. token_weights: [T, k] fp32, T * k = R.
    residual: [T, N] in the dtype of the answer. Everything else is as in grouped_matmul.

    A row's weighted answer is rounded to the dtype of the answer; the sum over slots is fp32, in their order, so that
    every run gives the same bits. Returns [T, N].
    """
    product = Product(
        a, weight, offsets, order, token_weights, bias, a_scale, weight_scale, fast_accumulation=fast_accumulation
    )
    product.check()
    _check_residual(product, residual)
    if validate or a.device.type == "cpu":
        product.check_values()
    return answer(product, residual)


def _fake_packed_grouped_matmul(
    a: Tensor,
    weight: PackedWeight,
    offsets: Tensor,
    order: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    validate: bool = False,
) -> Tensor:
    product = Product(a, weight, offsets, order, None, bias, activation=activation)
    product.check()
    return a.new_empty(product.out_shape)


@operator(_fake_packed_grouped_matmul)
def packed_grouped_matmul(
    a: Tensor,
    weight: PackedWeight,
    offsets: Tensor,
    order: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    validate: bool = False,
) -> Tensor:
    """grouped_matmul with the weights of the experts in mxfp4, which become bfloat16 in registers.

    a: on a GPU bfloat16, on a CPU float32 and float16 too. weight: [E, N, K], of
    `matmul.packed.weights.arrange_mxfp4`; those of a gated activation were interleaved before they were packed.
    Everything else is as in grouped_matmul.
    """
    product = Product(a, weight, offsets, order, None, bias, activation=activation)
    product.check()
    if validate or a.device.type == "cpu":
        product.check_values()
    return answer(product)


def _fake_packed_grouped_matmul_combine(
    a: Tensor,
    weight: PackedWeight,
    offsets: Tensor,
    order: Tensor,
    token_weights: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    validate: bool = False,
) -> Tensor:
    product = Product(a, weight, offsets, order, token_weights, bias)
    product.check()
    _check_residual(product, residual)
    return a.new_empty(product.out_shape)


@operator(_fake_packed_grouped_matmul_combine)
def packed_grouped_matmul_combine(
    a: Tensor,
    weight: PackedWeight,
    offsets: Tensor,
    order: Tensor,
    token_weights: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    validate: bool = False,
) -> Tensor:
    """grouped_matmul_combine with the weights of the experts in mxfp4, as in packed_grouped_matmul."""
    product = Product(a, weight, offsets, order, token_weights, bias)
    product.check()
    _check_residual(product, residual)
    if validate or a.device.type == "cpu":
        product.check_values()
    return answer(product, residual)
