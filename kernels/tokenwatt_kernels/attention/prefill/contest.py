"""Prefill attention against PyTorch's attention backends."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels.attention.prefill.call import prefill_attention
from tokenwatt_kernels.attention.prefill.problems import PrefillProblem
from tokenwatt_kernels.attention.prefill.work import work
from tokenwatt_kernels.attention.sdpa import sdpa_contenders
from tokenwatt_kernels.contests import OURS, Contender, Contest


def contest(
    problem: PrefillProblem,
    dtype_name: str,
    device: torch.device,
    baselines: tuple[str, ...] = ("sdpa_cudnn", "sdpa_flash", "sdpa_efficient"),
) -> Contest:
    """A problem of equally long sequences, which is what the baselines take without padding."""
    batch, length = len(problem.lengths), problem.lengths[0]
    if set(problem.lengths) != {length}:
        raise ValueError(f"lengths must all be equal for a contest, got {problem.lengths}")
    generator = torch.Generator(device).manual_seed(0)

    def random(heads: int) -> Tensor:
        shape = (batch * length, heads, problem.head_dim)
        return torch.randn(shape, generator=generator, device=device, dtype=getattr(torch, dtype_name))

    q, k, v = random(problem.query_heads), random(problem.kv_heads), random(problem.kv_heads)
    cu_seqlens = torch.arange(batch + 1, device=device, dtype=torch.int32) * length
    per_sequence = [tensor.unflatten(0, (batch, length)).transpose(1, 2) for tensor in (q, k, v)]
    return Contest(
        family="attention.prefill",
        problem=problem.name,
        dtype_name=dtype_name,
        terms=problem.terms,
        work=work(problem, q.element_size()),
        contenders={
            OURS: Contender(lambda: prefill_attention(q, k, v, cu_seqlens, length)),
            **sdpa_contenders(
                *per_sequence, causal=True, in_our_layout=lambda out: out.transpose(1, 2).flatten(0, 1), names=baselines
            ),
        },
    )
