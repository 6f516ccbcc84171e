"""Prefill problems made concrete for the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels.attention.cases import attention_cases
from tokenwatt_kernels.attention.inputs import Inputs, make_inputs
from tokenwatt_kernels.attention.prefill import variants
from tokenwatt_kernels.attention.prefill.tiles import INTERPRETER_TILES, PrefillTile, Tile
from tokenwatt_kernels.attention.prefill.warp_specialised_tiles import TILES
from tokenwatt_kernels.attention.problem import FLOAT8, AttentionProblem
from tokenwatt_kernels.targets import target_for
from tokenwatt_kernels.testing import Case


def cases(
    problem: AttentionProblem,
    dtype_name: str,
    device: torch.device,
    seed: int = 0,
    launch: Callable[..., None] = variants.launch,
    tiles: Iterable[Tile] | None = None,
) -> Iterator[Case]:
    """With `tiles`. None: small ones in the interpreter; on a GPU that of a launch, and the warp-specialised kernel's.

    Tiles whose kernel does not take the problem are left out.
    """
    inputs = make_inputs(problem, dtype_name, device, seed)
    q, keys, options = inputs.q, inputs.keys, inputs.options
    if tiles is None and device.type == "cpu":
        tiles = INTERPRETER_TILES
    elif tiles is None:
        shipped = variants.tile_for(q, keys, options)
        tiles = dict.fromkeys((shipped, *(tile for width, tile in TILES.items() if width == problem.head_dim)))
    for tile in tiles:
        if variants.takes(tile, q, keys, options):
            name = f"attention.prefill {problem.name} {tile.name}"
            yield from attention_cases(name, problem, dtype_name, inputs, _launcher(launch, problem, inputs, tile))


def small_cases(
    problem: AttentionProblem, dtype_name: str, device: torch.device, launch: Callable[..., None]
) -> Iterator[Case]:
    """With the interpreter's tiles, on any device; float8 on a GPU needs steps of 32 keys."""
    tiles = INTERPRETER_TILES
    if device.type != "cpu" and dtype_name == FLOAT8:
        tiles = (PrefillTile(32, 32, 32, 4, 1),)
    elif device.type != "cpu" and not target_for(device_facts.capability(device)).copies_tiles:
        tiles = tuple(tile for tile in tiles if not tile.descriptors)
    yield from cases(problem, dtype_name, device, launch=launch, tiles=tiles)


def _launcher(
    launch: Callable[..., None], problem: AttentionProblem, inputs: Inputs, tile: Tile
) -> Callable[[Tensor, Tensor | None], None]:
    def run(out: Tensor, log_sum: Tensor | None) -> None:
        launch(inputs.q, inputs.keys, inputs.query_starts, max(problem.queries), inputs.options, out, log_sum, tile)

    return run
