"""Decode problems made concrete for the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels.attention.cases import attention_cases
from tokenwatt_kernels.attention.decode import kernel
from tokenwatt_kernels.attention.decode.call import tile_for
from tokenwatt_kernels.attention.decode.tiles import INTERPRETER_TILES, DecodeTile
from tokenwatt_kernels.attention.inputs import Inputs, make_inputs
from tokenwatt_kernels.attention.problem import AttentionProblem
from tokenwatt_kernels.targets import target_for
from tokenwatt_kernels.testing import Case

INTERPRETER_MULTIPROCESSORS = 3


def cases(
    problem: AttentionProblem,
    dtype_name: str,
    device: torch.device,
    seed: int = 0,
    launch: Callable[..., None] = kernel.launch,
    tiles: Sequence[DecodeTile] | None = None,
) -> Iterator[Case]:
    """With `tiles` and their programs. None: the tile of a launch on a GPU, small ones in the interpreter."""
    inputs = make_inputs(problem, dtype_name, device, seed)
    queries = problem.queries[0]
    if set(problem.queries) != {queries}:
        raise ValueError(f"queries must all be equal for decode, got {problem.queries}")
    yield from _cases(problem, dtype_name, inputs, launch, _with_programs(tiles, inputs, queries))


def small_cases(
    problem: AttentionProblem, dtype_name: str, device: torch.device, launch: Callable[..., None]
) -> Iterator[Case]:
    """With the interpreter's tiles and programs, on any device."""
    inputs = make_inputs(problem, dtype_name, device)
    tiles = INTERPRETER_TILES
    if device.type != "cpu":
        copies = target_for(device_facts.capability(device)).copies_tiles
        tiles = tuple((tile, programs) for tile, programs in tiles if copies or not tile.descriptors)
    yield from _cases(problem, dtype_name, inputs, launch, tiles)


def _cases(
    problem: AttentionProblem,
    dtype_name: str,
    inputs: Inputs,
    launch: Callable[..., None],
    tiles: Iterable[tuple[DecodeTile, int]],
) -> Iterator[Case]:
    for tile, programs in tiles:
        if not tile.descriptors or inputs.keys.allow_descriptors(tile.block_n):
            name = f"attention.decode {problem.name} {tile.name} programs={programs}"
            run = _launcher(launch, problem.queries[0], inputs, tile, programs)
            yield from attention_cases(name, problem, dtype_name, inputs, run)


def _with_programs(
    tiles: Sequence[DecodeTile] | None, inputs: Inputs, queries: int
) -> Sequence[tuple[DecodeTile, int]]:
    device = inputs.q.device
    is_interpreted = device.type == "cpu"
    if tiles is None and is_interpreted:
        return INTERPRETER_TILES
    multiprocessors = INTERPRETER_MULTIPROCESSORS if is_interpreted else device_facts.multiprocessors(device)
    launched = (tile_for(inputs.q, queries, inputs.keys),) if tiles is None else tiles
    return [(tile, tile.programs_per_multiprocessor * multiprocessors) for tile in launched]


def _launcher(
    launch: Callable[..., None], queries: int, inputs: Inputs, tile: DecodeTile, programs: int
) -> Callable[[Tensor, Tensor | None], None]:
    def run(out: Tensor, log_sum: Tensor | None) -> None:
        launch(inputs.q, queries, inputs.keys, inputs.options, out, log_sum, tile, programs)

    return run
