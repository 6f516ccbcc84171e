"""One call of every public function but attention's, with inputs on any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokenwatt_kernels.fused.norm.call import quantise_activations, rms_norm, rms_norm_quantised
from tokenwatt_kernels.fused.rope.call import rotate_and_append
from tokenwatt_kernels.fused.top_k.call import top_k
from tokenwatt_kernels.matmul.call import matmul
from tokenwatt_kernels.matmul.nvfp4.call import nvfp4_matmul
from tokenwatt_kernels.matmul.packed.call import packed_matmul
from tokenwatt_kernels.matmul.packed.inputs import random_weight
from tokenwatt_kernels.moe.mlp import moe_mlp
from tokenwatt_kernels.moe.route.call import route_top_k
from tokenwatt_kernels.number_formats.float8 import quantise_blocks, quantise_rows
from tokenwatt_kernels.number_formats.nvfp4 import pack_nvfp4

BFLOAT16 = torch.bfloat16
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Call:
    """run: the function, given all of its tensors. varied: one of its inputs, which may be overwritten."""

    run: Callable[[], Any]
    varied: Tensor


def _randn(device: torch.device, *shape: int, dtype: torch.dtype = BFLOAT16) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(device, dtype)


def _matmul(rows: int, device: torch.device) -> Call:
    a, weight = _randn(device, rows, 256), _randn(device, 384, 256)
    bias, residual = _randn(device, 384), _randn(device, rows, 192)
    return Call(partial(matmul, a, weight, bias, residual, activation="swiglu"), residual)


def _quantised_on_cpu(quantise: Callable[[Tensor], tuple[Tensor, ...]], device: torch.device, *shape: int) -> Any:
    """Numbers and scales, found on the CPU: a GPU divides a little differently, and would round to other numbers."""
    return [part.to(device) for part in quantise(_randn(CPU, *shape))]


def _float8_matmul(rows: int, device: torch.device) -> Call:
    a, a_scale = _quantised_on_cpu(quantise_rows, device, rows, 256)
    weight, weight_scale = _quantised_on_cpu(quantise_rows, device, 384, 256)
    residual = _randn(device, rows, 384)
    run = partial(matmul, a, weight, None, residual, a_scale=a_scale, weight_scale=weight_scale)
    return Call(run, residual)


def _block_matmul(rows: int, device: torch.device) -> Call:
    a, a_scale = _quantised_on_cpu(quantise_blocks, device, rows, 256)
    weight, weight_scale = _quantised_on_cpu(partial(quantise_blocks, rows=128), device, 384, 256)
    residual = _randn(device, rows, 384)
    return Call(partial(matmul, a, weight, None, residual, a_scale=a_scale, weight_scale=weight_scale), residual)


def _packed(number_format: str, rows: int, device: torch.device) -> Call:
    weight = random_weight((384, 256), number_format, CPU, torch.Generator().manual_seed(0)).to(device)
    a = _randn(device, rows, 256)
    return Call(partial(packed_matmul, a, weight, activation="geglu"), a)


def _nvfp4(device: torch.device) -> Call:
    codes, scales, tensor_scales = zip(
        *(_quantised_on_cpu(pack_nvfp4, device, rows, 256) for rows in (5, 384)), strict=True
    )
    residual = _randn(device, 5, 384)
    return Call(partial(nvfp4_matmul, *codes, *scales, *tensor_scales, residual=residual), residual)


def _experts(is_mxfp4: bool, device: torch.device) -> Call:
    hidden, logits = _randn(device, 40, 128), _randn(device, 40, 16)
    generator = torch.Generator().manual_seed(0)
    if is_mxfp4:
        shapes = ((16, 256, 128), (16, 128, 128))
        gate_up, down = (random_weight(shape, "mxfp4", CPU, generator).to(device) for shape in shapes)
    else:
        gate_up, down = _randn(device, 16, 256, 128), _randn(device, 16, 128, 128)
    return Call(lambda: moe_mlp(hidden, route_top_k(logits, 4), gate_up, down, residual=hidden), logits)


def _norm(device: torch.device) -> Call:
    x, weight = _randn(device, 9, 512), _randn(device, 512)
    return Call(partial(rms_norm, x, weight), x)


def _quantised_norm(device: torch.device) -> Call:
    x, weight = _randn(device, 9, 512), _randn(device, 512)
    return Call(lambda: [part.float() for part in rms_norm_quantised(x, weight)[:2]], x)


def _quantised(device: torch.device) -> Call:
    x = _randn(device, 9, 512)
    return Call(lambda: [part.float() for part in quantise_activations(x)], x)


def _rope(device: torch.device) -> Call:
    q, k, v = _randn(device, 5, 8, 64), _randn(device, 5, 2, 64), _randn(device, 5, 2, 64)
    angles = torch.arange(16.0)[:, None] * 100.0 ** -(torch.arange(32) / 32)
    cos, sin = angles.cos().to(device), angles.sin().to(device)
    positions = torch.arange(5, dtype=torch.int32, device=device)
    k_cache, v_cache = (torch.zeros(2, 16, 2, 64, dtype=BFLOAT16, device=device) for _ in range(2))
    slots = torch.tensor([3, 4, 17, 18, 31], dtype=torch.int32, device=device)

    def run() -> list[Tensor]:
        rotated = rotate_and_append(q, k, v, cos, sin, positions, k_cache, v_cache, slots)
        return [rotated, k_cache.clone(), v_cache.clone()]

    return Call(run, v)


def _top_k(device: torch.device) -> Call:
    logits = _randn(device, 3, 5000)
    return Call(lambda: [part.float() for part in top_k(logits, 20)], logits)


CALLS: dict[str, Callable[[torch.device], Call]] = {
    "matmul of few rows": partial(_matmul, 5),
    "matmul of many rows": partial(_matmul, 300),
    "float8 matmul of few rows": partial(_float8_matmul, 5),
    "float8 matmul of many rows": partial(_float8_matmul, 300),
    "block-scaled matmul of few rows": partial(_block_matmul, 5),
    "block-scaled matmul of many rows": partial(_block_matmul, 300),
    "int4 matmul": partial(_packed, "int4", 5),
    "int4 matmul of many rows": partial(_packed, "int4", 300),
    "mxfp4 matmul": partial(_packed, "mxfp4", 5),
    "nvfp4 matmul": _nvfp4,
    "experts": partial(_experts, False),
    "mxfp4 experts": partial(_experts, True),
    "norm": _norm,
    "norm to float8": _quantised_norm,
    "activations to float8": _quantised,
    "rope and append": _rope,
    "top-k": _top_k,
}
