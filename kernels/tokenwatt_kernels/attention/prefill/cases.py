"""Prefill problems made concrete: poisoned inputs, the kernel to launch, the reference to hold it to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

import torch

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels.attention.prefill import kernel
from tokenwatt_kernels.attention.prefill.problems import PrefillProblem
from tokenwatt_kernels.attention.prefill.reference import prefill_attention_reference
from tokenwatt_kernels.attention.prefill.tiles import INTERPRETER_TILES, PrefillTile, choose
from tokenwatt_kernels.testing import Case, guarded_randn


def cases(
    problem: PrefillProblem,
    dtype_name: str,
    device: torch.device,
    seed: int = 0,
    launch: Callable[..., None] = kernel.launch,
) -> list[Case]:
    """One case per tile: the shipped one on a GPU, the small ones in the interpreter."""
    dtype = getattr(torch, dtype_name)
    generator = torch.Generator().manual_seed(seed)
    tokens, head_dim = sum(problem.lengths), problem.head_dim
    q, k, v = (
        guarded_randn((tokens, heads, head_dim), dtype, device, generator)
        for heads in (problem.query_heads, problem.kv_heads, problem.kv_heads)
    )
    cu_seqlens = torch.tensor([0, *accumulate(problem.lengths)], dtype=torch.int32, device=device)
    scale = head_dim**-0.5

    def reference(in_dtype: torch.dtype) -> torch.Tensor:
        return prefill_attention_reference(q.to(in_dtype), k.to(in_dtype), v.to(in_dtype), cu_seqlens, scale)

    return [
        Case(
            name=f"attention.prefill {problem.name} {tile.block_m}x{tile.block_n}",
            dtype_name=dtype_name,
            device=device,
            out_shape=tuple(q.shape),
            terms=problem.terms,
            launch=partial(_launch_into, launch, (q, k, v, cu_seqlens, max(problem.lengths), scale), tile),
            reference=reference,
        )
        for tile in _tiles(head_dim, q.element_size(), device)
    ]


def _launch_into(launch: Callable[..., None], arguments: tuple, tile: PrefillTile, out: torch.Tensor) -> None:
    launch(*arguments, out, tile)


def _tiles(head_dim: int, element_bytes: int, device: torch.device) -> Sequence[PrefillTile]:
    if device.type == "cpu":
        return INTERPRETER_TILES
    return (choose(head_dim, element_bytes, device_facts.capability(device)),)
