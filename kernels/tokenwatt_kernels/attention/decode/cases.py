"""Decode problems made concrete: poisoned caches, the kernel to launch, the reference to hold it to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels.attention.decode import kernel
from tokenwatt_kernels.attention.decode.problems import DecodeProblem
from tokenwatt_kernels.attention.decode.reference import decode_attention_reference
from tokenwatt_kernels.attention.decode.tiles import (
    INTERPRETER_TILES,
    DecodeTile,
    choose,
    choose_splits,
)
from tokenwatt_kernels.testing import Case, guarded_empty, guarded_randn


def cases(
    problem: DecodeProblem,
    dtype_name: str,
    device: torch.device,
    seed: int = 0,
    launch: Callable[..., None] = kernel.launch,
) -> list[Case]:
    """One case per tile and split: the shipped ones on a GPU, the small ones in the interpreter."""
    dtype = getattr(torch, dtype_name)
    generator = torch.Generator().manual_seed(seed)
    q_shape = (len(problem.context_lens), problem.query_heads, problem.head_dim)
    q = guarded_randn(q_shape, dtype, device, generator)
    block_table = make_block_table(problem, generator).to(device)
    k_cache, v_cache = (make_cache(problem, block_table, dtype, device, generator) for _ in range(2))
    context_lens = torch.tensor(problem.context_lens, dtype=torch.int32, device=device)
    scale = problem.head_dim**-0.5

    def reference(in_dtype: torch.dtype) -> Tensor:
        # Without the spare pages, which no sequence refers to.
        k, v = (cache[problem.spare_pages :].to(in_dtype) for cache in (k_cache, v_cache))
        pages = (block_table - problem.spare_pages).clamp(min=0)
        return decode_attention_reference(q.to(in_dtype), k, v, pages, context_lens, scale)

    return [
        Case(
            name=f"attention.decode {problem.name} N{tile.block_n} splits={splits}",
            dtype_name=dtype_name,
            device=device,
            out_shape=q_shape,
            terms=problem.terms,
            launch=partial(_launch_into, launch, (q, k_cache, v_cache, block_table, context_lens, scale), tile, splits),
            reference=reference,
        )
        for tile, splits in _tiles_and_splits(problem, q.element_size(), block_table, device)
    ]


def make_block_table(problem: DecodeProblem, generator: torch.Generator) -> Tensor:
    """[B, max_pages + 1] int32: live pages in random order behind the spare ones; unused entries say page 0."""
    needed = [-(-length // problem.page_size) for length in problem.context_lens]
    order = (torch.randperm(sum(needed), generator=generator) + problem.spare_pages).to(torch.int32)
    table = torch.zeros(len(needed), max(needed) + 1, dtype=torch.int32)
    for row, pages in zip(table, order.split(needed), strict=True):
        row[: len(pages)] = pages
    return table


def make_cache(
    problem: DecodeProblem, block_table: Tensor, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Tensor:
    """[pages, page_size, Hkv, D]: random where a sequence has a token, NaN in every other slot and all around."""
    page_size = problem.page_size
    pages = problem.spare_pages + sum(-(-length // page_size) for length in problem.context_lens)
    cache = guarded_empty((pages, page_size, problem.kv_heads, problem.head_dim), dtype, device).view
    for row, length in zip(block_table.long(), problem.context_lens, strict=True):
        tokens = torch.arange(length, device=device)
        values = torch.randn(length, problem.kv_heads, problem.head_dim, generator=generator)
        cache[row[tokens // page_size], tokens % page_size] = values.to(device, dtype)
    return cache


def _launch_into(launch: Callable[..., None], arguments: tuple, tile: DecodeTile, splits: int, out: Tensor) -> None:
    launch(*arguments, out, tile, splits)


def _tiles_and_splits(
    problem: DecodeProblem, element_bytes: int, block_table: Tensor, device: torch.device
) -> Sequence[tuple[DecodeTile, int]]:
    if device.type == "cpu":
        return INTERPRETER_TILES
    group = problem.query_heads // problem.kv_heads
    tile = choose(group, problem.head_dim, element_bytes, device_facts.capability(device))
    sequences, max_pages = block_table.shape
    max_context = max_pages * problem.page_size
    multiprocessors = device_facts.multiprocessors(device)
    return ((tile, choose_splits(sequences, problem.kv_heads, max_context, tile.block_n, multiprocessors)),)
