"""RMS normalisation against torch's own, after an addition where there is a residual; float8 of rows as they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import rms_norm as torch_rms_norm

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels import tables
from tokenwatt_kernels.contests import OURS, Contender, Contest, compiled
from tokenwatt_kernels.fused.norm.call import SCALE_WIDTH, quantise_activations, rms_norm, rms_norm_quantised, tile_for
from tokenwatt_kernels.fused.norm.problems import NormProblem
from tokenwatt_kernels.fused.norm.reference import dequantised, quantised_reference, scales_reference
from tokenwatt_kernels.fused.norm.tiles import FAMILY, make_key
from tokenwatt_kernels.fused.norm.work import work

EPS = 1e-5


def contest(problem: NormProblem, dtype_name: str, device: torch.device) -> Contest:
    """Random normal inputs. Each contender has a residual of its own, because it adds to it in place.

    It grows until the dtype rounds what is added away, so it stays finite.
    """
    dtype = getattr(torch, dtype_name)
    generator = torch.Generator(device).manual_seed(0)
    x, start = (torch.randn(problem.shape, generator=generator, device=device, dtype=dtype) for _ in range(2))
    weight = torch.randn(problem.width, generator=generator, device=device, dtype=dtype)
    scale = torch.tensor([0.0125], device=device)

    def residual() -> Tensor | None:
        return start.clone() if problem.has_residual else None

    in_our_layout = _numbers if problem.scales in ("token", "block") else Tensor.float
    contenders = {
        OURS: Contender(_ours(problem, x, weight, residual(), scale), in_our_layout),
        "torch": Contender(_by_torch(problem, x, weight, residual(), scale), in_our_layout),
    }
    if device.type == "cuda":
        by_torch = _by_torch(problem, x, weight, residual(), scale)
        contenders["torch_compile"] = Contender(compiled(by_torch), in_our_layout, is_compiled=True)
    return Contest(
        family=FAMILY,
        problem=problem.name,
        dtype_name=dtype_name,
        terms=problem.terms,
        work=work(problem, dtype_name),
        contenders=contenders,
        configuration=_configuration(x) if device.type == "cuda" else "",
        held_to="" if problem.scales == "none" else "float8_e4m3fn",
    )


def _ours(
    problem: NormProblem, x: Tensor, weight: Tensor, residual: Tensor | None, scale: Tensor
) -> Callable[[], Tensor | tuple[Tensor, Tensor]]:
    if not problem.has_norm:
        return lambda: quantise_activations(x, scales=problem.scales)
    options = {"eps": EPS, "unit_offset": problem.unit_offset}
    if problem.scales in ("token", "block"):
        return lambda: rms_norm_quantised(x, weight, residual, scales=problem.scales, **options)
    given = scale if problem.scales == "tensor" else None
    return lambda: rms_norm(x, weight, residual, given, **options)


def _by_torch(
    problem: NormProblem, x: Tensor, weight: Tensor, residual: Tensor | None, scale: Tensor
) -> Callable[[], Tensor | tuple[Tensor, Tensor]]:
    factors = weight + 1 if problem.unit_offset else weight
    width = SCALE_WIDTH if problem.scales == "block" else problem.width

    def run() -> Tensor | tuple[Tensor, Tensor]:
        rows = x if residual is None else residual.add_(x)
        normed = torch_rms_norm(rows, factors.shape, factors, EPS) if problem.has_norm else rows
        if problem.scales == "none":
            return normed
        if problem.scales == "tensor":
            return quantised_reference(normed.float(), scale)
        scales = scales_reference(normed.float(), width)
        return quantised_reference(normed.float(), scales), scales

    return run


def _numbers(answer: tuple[Tensor, Tensor]) -> Tensor:
    quantised, scales = answer
    return dequantised(quantised, scales.view(len(quantised), -1)).float()


def _configuration(x: Tensor) -> str:
    tile = tile_for(x)
    key = make_key(x.shape[-1], x.element_size())
    return f"{tile.name} ({tables.origin(device_facts.name(x.device), FAMILY, key, tile)})"
