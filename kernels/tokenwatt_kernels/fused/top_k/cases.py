"""Choices of tokens as cases of the gate: values, what the indices stand for, and log-sum-exp."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tokenwatt_kernels.fused.top_k import kernel
from tokenwatt_kernels.fused.top_k.call import tile_for
from tokenwatt_kernels.fused.top_k.problems import TopKProblem
from tokenwatt_kernels.fused.top_k.reference import top_k_reference
from tokenwatt_kernels.fused.top_k.tiles import INTERPRETER_TILES, TopKTile
from tokenwatt_kernels.testing import Case, guarded_empty

RULED_OUT = -4.0  # stands for -inf, of which no difference can be taken


@dataclass(frozen=True, slots=True)
class Inputs:
    """Logits inside NaN and temperatures."""

    problem: TopKProblem
    logits: Tensor
    temperature: Tensor | None

    def reference(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """The naive answer, computed in `dtype`."""
        problem = self.problem
        return top_k_reference(self.logits.to(dtype), problem.k, self.temperature, problem.softcap)


def make_inputs(problem: TopKProblem, dtype_name: str, device: torch.device, seed: int = 0) -> Inputs:
    """Logits as the problem says, and temperatures from 0.5."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(problem.rows, problem.vocabulary, generator=generator)
    if problem.values == "equal":
        drawn = drawn.round().clamp(-3, 3)
    if problem.values == "ruled_out":
        drawn[torch.rand(drawn.shape, generator=generator) < 0.97] = float("-inf")
        drawn[0] = float("-inf")
    logits = guarded_empty(drawn.shape, getattr(torch, dtype_name), device).view.copy_(drawn)
    temperature = (0.5 + torch.rand(problem.rows, generator=generator)).to(device) if problem.has_temperature else None
    return Inputs(problem, logits, temperature)


def cases(
    problem: TopKProblem,
    dtype_name: str,
    device: torch.device,
    seed: int = 0,
    launch: Callable[..., None] = kernel.launch,
    tiles: Sequence[TopKTile] | None = None,
) -> Iterator[Case]:
    """With `tiles`. None: the tile of a launch on a GPU, small ones in the interpreter."""
    inputs = make_inputs(problem, dtype_name, device, seed)
    if tiles is None:
        tiles = INTERPRETER_TILES if device.type == "cpu" else (tile_for(inputs.logits, problem.k),)
    for tile in tiles:
        yield from _cases(inputs, dtype_name, launch, tile)


def small_cases(
    problem: TopKProblem, dtype_name: str, device: torch.device, launch: Callable[..., None]
) -> Iterator[Case]:
    """With the interpreter's tiles, on any device."""
    return cases(problem, dtype_name, device, launch=launch, tiles=INTERPRETER_TILES)


def _cases(inputs: Inputs, dtype_name: str, launch: Callable[..., None], tile: TopKTile) -> Iterator[Case]:
    problem = inputs.problem
    name = f"fused.top_k {problem.name} {tile.name}"
    # All answers are fp32, of logits in any dtype.
    case = partial(
        Case, dtype_name=dtype_name, device=inputs.logits.device, terms=problem.terms, held_to="float32", read=_finite
    )
    chosen, all_rows = (problem.rows, problem.k), (problem.rows,)

    device = inputs.logits.device

    def run(values: Tensor | None = None, indices: Tensor | None = None, log_sum: Tensor | None = None) -> None:
        launch(
            inputs.logits, inputs.temperature, problem.softcap,
            torch.empty(chosen, device=device) if values is None else values,
            torch.empty(chosen, dtype=torch.int32, device=device) if indices is None else indices,
            torch.empty(all_rows, device=device) if log_sum is None else log_sum,
            tile,
        )  # fmt: skip

    def run_for_indices(out: Tensor) -> None:
        indices = torch.full(chosen, -1, dtype=torch.int32, device=device)
        run(indices=indices)
        out.copy_(selected(inputs.logits, indices))

    yield case(
        name=f"{name} values",
        out_shape=chosen,
        launch=lambda out: run(values=out),
        reference=lambda dtype: _finite(inputs.reference(dtype)[0]),
    )
    yield case(
        name=f"{name} indices",
        out_shape=chosen,
        launch=run_for_indices,
        reference=lambda dtype: _finite(inputs.logits.to(dtype).gather(1, inputs.reference(dtype)[1].long())),
    )
    yield case(
        name=f"{name} log-sum-exp",
        out_shape=all_rows,
        launch=lambda out: run(log_sum=out),
        reference=lambda dtype: _finite(inputs.reference(dtype)[2]),
    )


def selected(logits: Tensor, indices: Tensor) -> Tensor:
    """The logits at indices [B, k], fp32; infinity where an index is none, or is there twice in a row."""
    is_index = (indices >= 0) & (indices < logits.shape[1])
    found = logits.float().gather(1, torch.where(is_index, indices, 0).long())
    ordered, places = indices.sort(dim=1)
    is_repeated = torch.zeros_like(is_index)
    is_repeated.scatter_(1, places[:, 1:], ordered[:, 1:] == ordered[:, :-1])
    return found.masked_fill(~is_index | is_repeated, float("inf"))


def _finite(stored: Tensor) -> Tensor:
    return stored.masked_fill(stored.isneginf(), RULED_OUT)
