"""RMS normalisation (Zhang and Sennrich, arXiv 1910.07467) of rows, with a residual, in float8 or in the dtype of x."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tokenwatt_kernels import device, tables
from tokenwatt_kernels.arguments import FLOAT8, check_device, check_matches, check_size, check_tensor
from tokenwatt_kernels.fused.norm.problems import Scales
from tokenwatt_kernels.fused.norm.reference import normed_reference, quantised_reference, scales_reference
from tokenwatt_kernels.fused.norm.tiles import FAMILY, MAX_WIDTH, NormTile, make_key
from tokenwatt_kernels.number_formats.float8 import BLOCK as SCALE_WIDTH
from tokenwatt_kernels.operators import operator


def tile_for(x: Tensor) -> NormTile:
    """The tile for rows x [..., H] on a GPU."""
    key = make_key(x.shape[-1], x.element_size())
    return tables.tile_on(FAMILY, device.name(x.device), device.capability(x.device), key)


def _fake_rms_norm(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    eps: float = 1e-6,
    unit_offset: bool = False,
) -> Tensor:
    _check(x, weight, residual, eps)
    if scale is not None:
        check_tensor("scale", scale, ("1",), (torch.float32,))
        check_size("scale", "elements", scale.shape[0], 1)
        check_device("scale", scale, "x", x)
    return x.new_empty(x.shape, dtype=x.dtype if scale is None else FLOAT8)


@operator(_fake_rms_norm, writes=("residual",))
def rms_norm(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    eps: float = 1e-6,
    unit_offset: bool = False,
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight along the last axis.

    x: [T, H], or [T, heads, H] for a norm of each head; one of float32, float16 or bfloat16; contiguous along H, which
        is from 1 to 16,384.
    weight: [H] in the dtype of x.
    residual: the shape and dtype of x. It is replaced by x + residual, rounded to its dtype, and that is normed.
    scale: [1] fp32. With one, the answer is float8 e4m3 of what was said above / scale; beyond +-448 it is +-448.
    eps: >= 0. unit_offset: multiply by 1 + weight, as Gemma does.

    All is computed in fp32 and rounded once, as torch.nn.functional.rms_norm does. (Llama's code in Hugging Face rounds
    before it multiplies by the weight, too.)

    Returns x's shape: the Triton kernel's answer on CUDA, torch's on a CPU.
    Raises TypeError or ValueError, before any launch, for arguments other than these.
    """
    out = _fake_rms_norm(x, weight, residual, scale, eps=eps, unit_offset=unit_offset)
    if x.device.type == "cpu":
        normed = _on_cpu(x, weight, residual, eps=eps, unit_offset=unit_offset)
        return out.copy_(normed if scale is None else quantised_reference(normed, scale))
    _launch(x, weight, residual, out, scale, "none" if scale is None else "tensor", eps, unit_offset=unit_offset)
    return out


def _fake_rms_norm_quantised(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None = None,
    *,
    scales: str = "token",
    eps: float = 1e-6,
    unit_offset: bool = False,
) -> tuple[Tensor, Tensor]:
    check_tensor("x", x, ("T", "H"))
    _check(x, weight, residual, eps)
    return _new_quantised(x, scales)


@operator(_fake_rms_norm_quantised, writes=("residual",))
def rms_norm_quantised(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None = None,
    *,
    scales: str = "token",
    eps: float = 1e-6,
    unit_offset: bool = False,
) -> tuple[Tensor, Tensor]:
    """rms_norm of x [T, H] as float8 e4m3 with its own scales, so that answer * scale is about the norm.

    scales: "token" for one of each row, or "block" for one of each 128 elements, of which H is a multiple. How a
        scale is found is said in `number_formats.float8`.
    Everything else is as in rms_norm; what is quantised was not rounded to the dtype of x before.

    Returns float8 [T, H] and fp32 [T] or [T, H / 128].
    """
    out, scale = _fake_rms_norm_quantised(x, weight, residual, scales=scales, eps=eps, unit_offset=unit_offset)
    if x.device.type == "cpu":
        normed = _on_cpu(x, weight, residual, eps=eps, unit_offset=unit_offset)
        return _quantised_on_cpu(normed, out, scale)
    _launch(x, weight, residual, out, scale, "token" if scales == "token" else "block", eps, unit_offset=unit_offset)
    return out, scale


def _fake_quantise_activations(x: Tensor, *, scales: str = "token") -> tuple[Tensor, Tensor]:
    check_tensor("x", x, ("T", "H"))
    _check_width(x)
    return _new_quantised(x, scales)


@operator(_fake_quantise_activations)
def quantise_activations(x: Tensor, *, scales: str = "token") -> tuple[Tensor, Tensor]:
    """x [T, H] as float8 e4m3 with its own scales, without a norm: for what a norm does not come before.

    x: float32, float16 or bfloat16, contiguous along H, which is from 1 to 16,384. scales: as in rms_norm_quantised.

    Returns float8 [T, H] and fp32 [T] or [T, H / 128].
    Raises TypeError or ValueError, before any launch, for arguments other than these.
    """
    out, scale = _fake_quantise_activations(x, scales=scales)
    if x.device.type == "cpu":
        return _quantised_on_cpu(x.float(), out, scale)
    _launch(x, None, None, out, scale, "token" if scales == "token" else "block", 0.0, unit_offset=False)
    return out, scale


def _new_quantised(x: Tensor, scales: str) -> tuple[Tensor, Tensor]:
    """Room for x [T, H] in float8 and for its scales."""
    if scales not in ("token", "block"):
        raise ValueError(f"scales must be token or block, got {scales}")
    if scales == "block" and x.shape[1] % SCALE_WIDTH:
        raise ValueError(f"x must have H in multiples of {SCALE_WIDTH} for scales of blocks, got {x.shape[1]}")
    shape = (x.shape[0],) if scales == "token" else (x.shape[0], x.shape[1] // SCALE_WIDTH)
    return x.new_empty(x.shape, dtype=FLOAT8), x.new_empty(shape, dtype=torch.float32)


def _quantised_on_cpu(numbers: Tensor, out: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    found = scales_reference(numbers, numbers.shape[1] if scale.dim() == 1 else SCALE_WIDTH)
    scale.copy_(found.view(scale.shape))
    return out.copy_(quantised_reference(numbers, found)), scale


def _check_width(x: Tensor) -> None:
    if not 1 <= x.shape[-1] <= MAX_WIDTH:
        raise ValueError(f"x must have H from 1 to {MAX_WIDTH}, got {x.shape[-1]}")


def _check(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> None:
    axes = ("T", "heads", "H") if isinstance(x, Tensor) and x.dim() == 3 else ("T", "H")
    check_tensor("x", x, axes)
    _check_width(x)
    check_tensor("weight", weight, ("H",))
    check_matches("weight", weight, "x", x)
    check_size("weight", "H", weight.shape[0], x.shape[-1])
    if residual is not None:
        check_tensor("residual", residual, axes)
        check_matches("residual", residual, "x", x)
        if residual.shape != x.shape:
            raise ValueError(f"residual must have the shape of x, {list(x.shape)}, got {list(residual.shape)}")
    if not (eps >= 0 and math.isfinite(eps)):
        raise ValueError(f"eps must be a finite number >= 0, got {eps}")


def _on_cpu(x: Tensor, weight: Tensor, residual: Tensor | None, *, eps: float, unit_offset: bool) -> Tensor:
    """The norm in fp32; the residual becomes the sum."""
    summed = x if residual is None else residual.add_(x)
    return normed_reference(summed, weight, eps=eps, unit_offset=unit_offset)


def _launch(
    x: Tensor,
    weight: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    scale: Tensor | None,
    scales: Scales,
    eps: float,
    *,
    unit_offset: bool,
) -> None:
    device.check_supported(x.device)
    if out.dtype == FLOAT8:
        device.check_float8(x.device, is_mixed=False)

    from tokenwatt_kernels.fused.norm.kernel import launch

    launch(x, weight, residual, out, scale, tile_for(x), eps=eps, unit_offset=unit_offset, scales=scales)
