"""Routing problems made concrete for the gate: one case for each of the five tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from tokenwatt_kernels.moe.route import kernel
from tokenwatt_kernels.moe.route.call import tile_for
from tokenwatt_kernels.moe.route.problems import RouteProblem
from tokenwatt_kernels.moe.route.reference import route_reference
from tokenwatt_kernels.moe.route.tiles import INTERPRETER_TILES, RouteTile
from tokenwatt_kernels.moe.routing import Routing
from tokenwatt_kernels.testing import GUARD_ROWS, Case, guarded_randn

UNTOUCHED = -77
NAMES = tuple(field.name for field in fields(Routing))


def cases(
    problem: RouteProblem,
    dtype_name: str,
    device: torch.device,
    seed: int = 0,
    launch: Callable[..., None] = kernel.launch,
    tiles: Sequence[RouteTile] | None = None,
) -> Iterator[Case]:
    """With `tiles`. None: the tile of a launch on a GPU, small ones in the interpreter."""
    inputs = make_inputs(problem, dtype_name, device, seed)
    launched = (INTERPRETER_TILES if device.type == "cpu" else (tile_for(inputs.logits),)) if tiles is None else tiles
    for tile in launched:
        for number, name in enumerate(NAMES):
            yield Case(
                name=f"moe.route {problem.name} {tile.name} {name}",
                dtype_name=dtype_name,
                device=device,
                out_shape=_shapes(problem)[number],
                terms=problem.terms,
                launch=_launcher(launch, problem, inputs, tile, number),
                reference=_reference(problem, inputs, number),
                held_to="float32",
            )


def small_cases(
    problem: RouteProblem, dtype_name: str, device: torch.device, launch: Callable[..., None]
) -> Iterator[Case]:
    """With the interpreter's tiles, on any device."""
    return cases(problem, dtype_name, device, launch=launch, tiles=INTERPRETER_TILES)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Logits [T, E] inside NaN, and the correction bias [E] or None."""

    logits: Tensor
    correction_bias: Tensor | None


def make_inputs(problem: RouteProblem, dtype_name: str, device: torch.device, seed: int = 0) -> Inputs:
    """Standard normal logits, or those that the problem asks for."""
    generator = torch.Generator().manual_seed(seed)
    logits = guarded_randn((problem.tokens, problem.experts), getattr(torch, dtype_name), device, generator)
    if problem.logits == "ties":
        logits.copy_((logits.float() * 2).round() / 2)
    elif problem.logits == "one expert":
        logits.copy_(torch.arange(problem.experts) % 3 - 1.0)
    bias = torch.randn(problem.experts, generator=generator).to(device) / 4 if problem.has_bias else None
    return Inputs(logits, bias)


def _shapes(problem: RouteProblem) -> tuple[tuple[int, ...], ...]:
    chosen, rows = (problem.tokens, problem.choice.top_k), (problem.rows,)
    return chosen, chosen, rows, rows, (problem.experts + 1,)


def _launcher(
    launch: Callable[..., None], problem: RouteProblem, inputs: Inputs, tile: RouteTile, number: int
) -> Callable[[Tensor], None]:
    """Runs all launches, and gives one of the answers as numbers; NaN where memory around any of them was written."""

    def run(out: Tensor) -> None:
        dtypes = (torch.float32, *(torch.int32,) * 4)
        buffers = [
            torch.full((_size(shape) + 2 * GUARD_ROWS,), UNTOUCHED, dtype=dtype, device=out.device)
            for shape, dtype in zip(_shapes(problem), dtypes, strict=True)
        ]
        answers = [
            buffer[GUARD_ROWS:-GUARD_ROWS].view(shape) for buffer, shape in zip(buffers, _shapes(problem), strict=True)
        ]
        launch(inputs.logits, inputs.correction_bias, problem.choice, *answers, tile)
        around = torch.cat([torch.cat([buffer[:GUARD_ROWS], buffer[-GUARD_ROWS:]]) for buffer in buffers])
        out.copy_(answers[number])
        if bool((around != UNTOUCHED).any()):
            out.fill_(float("nan"))

    return run


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _reference(problem: RouteProblem, inputs: Inputs, number: int) -> Callable[[torch.dtype], Tensor]:
    def reference(dtype: torch.dtype) -> Tensor:
        return route_reference(inputs.logits.to(dtype), inputs.correction_bias, problem.choice)[number].to(dtype)

    return reference
