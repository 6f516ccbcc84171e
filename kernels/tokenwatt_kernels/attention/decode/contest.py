"""Decode attention over a paged cache, against PyTorch's attention over the same tokens gathered beforehand."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels.attention.decode.call import decode_attention
from tokenwatt_kernels.attention.decode.problems import DecodeProblem
from tokenwatt_kernels.attention.decode.work import work
from tokenwatt_kernels.attention.sdpa import sdpa_contenders
from tokenwatt_kernels.contests import OURS, Contender, Contest


def contest(
    problem: DecodeProblem,
    dtype_name: str,
    device: torch.device,
    baselines: tuple[str, ...] = ("sdpa_cudnn", "sdpa_flash", "sdpa_efficient"),
) -> Contest:
    """A problem of equally long contexts. The baselines' gather is not timed, which favours them."""
    batch, context = len(problem.context_lens), problem.context_lens[0]
    if set(problem.context_lens) != {context}:
        raise ValueError(f"context_lens must all be equal for a contest, got {problem.context_lens}")
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=getattr(torch, dtype_name))

    pages = -(-context // problem.page_size)
    cache_shape = (batch * pages, problem.page_size, problem.kv_heads, problem.head_dim)
    q = random(batch, problem.query_heads, problem.head_dim)
    k_cache, v_cache = random(*cache_shape), random(*cache_shape)
    order = torch.randperm(batch * pages, generator=generator, device=device)
    block_table = order.to(torch.int32).unflatten(0, (batch, pages))
    context_lens = torch.full((batch,), context, dtype=torch.int32, device=device)
    k, v = (_gather(cache, block_table, context) for cache in (k_cache, v_cache))
    return Contest(
        family="attention.decode",
        problem=problem.name,
        dtype_name=dtype_name,
        terms=problem.terms,
        work=work(problem, q.element_size()),
        contenders={
            OURS: Contender(lambda: decode_attention(q, k_cache, v_cache, block_table, context_lens)),
            **sdpa_contenders(
                q.unsqueeze(2), k, v, causal=False, in_our_layout=lambda out: out.squeeze(2), names=baselines
            ),
        },
    )


def _gather(cache: Tensor, block_table: Tensor, context: int) -> Tensor:
    """The paged cache as contiguous [B, Hkv, context, D]."""
    return cache[block_table].flatten(1, 2)[:, :context].transpose(1, 2).contiguous()
