"""Rotary embeddings as cases of the gate: one for each tensor that a launch writes.

A cache is NaN before the launch, and must be NaN again wherever no token was appended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from tokenwatt_kernels.fused.rope import kernel
from tokenwatt_kernels.fused.rope.call import tile_for
from tokenwatt_kernels.fused.rope.inputs import Inputs, make_inputs, parts_of_latents
from tokenwatt_kernels.fused.rope.operands import Append
from tokenwatt_kernels.fused.rope.problems import RopeProblem
from tokenwatt_kernels.fused.rope.tiles import INTERPRETER_TILES, RopeTile
from tokenwatt_kernels.number_formats.float8 import LARGEST
from tokenwatt_kernels.testing import Case

Run = Callable[[Append | None, Tensor, Tensor | None, Tensor | None], None]


def cases(
    problem: RopeProblem,
    dtype_name: str,
    device: torch.device,
    seed: int = 0,
    launch: Callable[..., None] = kernel.launch,
    tiles: Sequence[RopeTile] | None = None,
) -> Iterator[Case]:
    """With `tiles`. None: the tile of a launch on a GPU, small ones in the interpreter."""
    inputs = make_inputs(problem, dtype_name, device, seed)
    if tiles is None:
        tiles = INTERPRETER_TILES if device.type == "cpu" else (tile_for(inputs.q),)
    for tile in tiles:
        yield from _cases(inputs, dtype_name, launch, tile)


def small_cases(
    problem: RopeProblem, dtype_name: str, device: torch.device, launch: Callable[..., None]
) -> Iterator[Case]:
    """With the interpreter's tiles, on any device."""
    return cases(problem, dtype_name, device, launch=launch, tiles=INTERPRETER_TILES)


def _cases(inputs: Inputs, dtype_name: str, launch: Callable[..., None], tile: RopeTile) -> Iterator[Case]:
    problem, device = inputs.problem, inputs.q.device
    dtype = inputs.q.dtype
    cache_dtype = getattr(torch, problem.kv_dtype or dtype_name)
    name = f"fused.rope {problem.name} {tile.name}"
    case = partial(Case, dtype_name=dtype_name, device=device, terms=problem.terms)

    def run(append: Append | None, out: Tensor, k_out: Tensor | None = None, v_out: Tensor | None = None) -> None:
        packed = [
            torch.empty_like(heads) if given is None and problem.is_packed else given
            for given, heads in ((k_out, inputs.k), (v_out, inputs.v))
        ]
        launch(inputs.q, inputs.k, inputs.v, inputs.rotation, append, out, *packed, tile)

    def empty() -> Tensor:
        return torch.empty(inputs.q.shape, dtype=dtype, device=device)

    def own() -> Append | None:
        return inputs.append_to_empty(cache_dtype)

    yield case(
        name=f"{name} q",
        out_shape=tuple(inputs.q.shape),
        launch=lambda out: run(own(), out),
        reference=lambda in_dtype: inputs.rotated("q", in_dtype),
    )
    if problem.is_packed:
        yield case(
            name=f"{name} k",
            out_shape=tuple(inputs.k.shape),
            launch=lambda out: run(own(), empty(), k_out=out),
            reference=lambda in_dtype: inputs.rotated("k", in_dtype),
        )
        yield case(
            name=f"{name} v",
            out_shape=tuple(inputs.v.shape),
            launch=lambda out: run(own(), empty(), v_out=out),
            reference=inputs.v.to,
        )
    if inputs.slots is None:
        return
    case = partial(case, held_to=problem.kv_dtype or dtype_name, out_dtype=cache_dtype)
    for cache, width in (("k", problem.head_dim), ("v", problem.values)):
        if problem.passes_int32:
            # Only what is written of such a cache is memory, so the rest cannot be looked at.
            yield case(
                name=f"{name} {cache} cache",
                out_shape=(problem.tokens, problem.kv_heads, width),
                launch=partial(_launch_far, run, own, empty, inputs, cache),
                reference=partial(_appended, inputs, cache),
                read=partial(_times_scale, inputs, cache),
            )
            continue
        stored = problem.values + problem.head_dim if problem.is_latent else width
        yield case(
            name=f"{name} {cache} cache",
            out_shape=(*inputs.cache_shape, stored),
            launch=partial(_launch_near, run, own, empty, inputs, cache),
            reference=partial(_appended, inputs, cache),
            read=partial(_read_cache, inputs, cache),
        )


def _launch_near(
    run: Callable[..., None],
    own: Callable[[], Append | None],
    empty: Callable[[], Tensor],
    inputs: Inputs,
    cache: str,
    stored: Tensor,
) -> None:
    """Append to `stored`, which is the cache of keys, of values or of latents."""
    if inputs.problem.is_latent:
        return run(inputs.append(*parts_of_latents(stored, inputs.problem.values)), empty())
    append = own()
    assert append is not None
    caches = (stored, append.v_cache) if cache == "k" else (append.k_cache, stored)
    return run(inputs.append(*caches), empty())


def _launch_far(
    run: Callable[..., None],
    own: Callable[[], Append | None],
    empty: Callable[[], Tensor],
    inputs: Inputs,
    cache: Literal["k", "v"],
    out: Tensor,
) -> None:
    append = own()
    assert append is not None
    run(append, empty())
    out.copy_(_at_slots(inputs, append.k_cache if cache == "k" else append.v_cache))


def _appended(inputs: Inputs, cache: str, dtype: torch.dtype) -> Tensor:
    """What the slots must stand for, in the order of the tokens that have one."""
    assert inputs.slots is not None
    heads = inputs.rotated("k", dtype) if cache == "k" else inputs.v.to(dtype)
    scale = inputs.k_scale if cache == "k" else inputs.v_scale
    if scale is not None:
        largest = LARGEST * scale.to(dtype)[:, None]
        heads = heads.clamp(-largest, largest)
    return heads[inputs.slots >= 0]


def _read_cache(inputs: Inputs, cache: str, stored: Tensor) -> Tensor:
    """What the slots stand for; infinity where anything else was written, which the gate refuses."""
    around = stored.float()
    values = _at_slots(inputs, around)
    pages, places = _places(inputs)
    around[pages, places] = float("nan")
    if not bool(around.isnan().all()):
        values = torch.full_like(values, float("inf"))
    if inputs.problem.is_latent:
        keys, latents = parts_of_latents(values, inputs.problem.values)
        values = keys if cache == "k" else latents
    return _times_scale(inputs, cache, values)


def _times_scale(inputs: Inputs, cache: str, values: Tensor) -> Tensor:
    scale = inputs.k_scale if cache == "k" else inputs.v_scale
    return values.double() if scale is None else values.double() * scale.double()[:, None]


def _at_slots(inputs: Inputs, cache: Tensor) -> Tensor:
    return cache[_places(inputs)]


def _places(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Page and place of every slot that is not negative."""
    assert inputs.slots is not None
    slots = inputs.slots[inputs.slots >= 0].long()
    return slots // inputs.problem.page_size, slots % inputs.problem.page_size
