"""PyTorch's attention implementations on an attention problem: one contender per SDPA backend, and FlexAttention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.flex_attention import AuxOutput, AuxRequest, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from tokenwatt_kernels.attention.inputs import Inputs
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.problem import AttentionProblem
from tokenwatt_kernels.contests import Contender, compiled

SDPA_BACKENDS = {
    "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa_flash": SDPBackend.FLASH_ATTENTION,
    "sdpa_efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa_math": SDPBackend.MATH,
}
FLEX = "flex"
NAMES = ("sdpa_cudnn", "sdpa_flash", "sdpa_efficient", FLEX)


def contenders(problem: AttentionProblem, inputs: Inputs, names: tuple[str, ...] = NAMES) -> dict[str, Contender]:
    """The named baselines that take the problem's options. SDPA takes causality alone, FlexAttention all of them.

    Sequences must be equally long. Paged keys are gathered and float8 becomes bfloat16 before the clock starts, which
    favours the baselines, except that the latter doubles the bytes that they read: their names end in _bf16. Latents of
    one query per sequence are keys of one head, whose query heads become queries that see everything.
    """
    q, k, v = _dense(problem, inputs)
    suffix = "_bf16" if torch.float8_e4m3fn in (inputs.q.dtype, inputs.keys.k.dtype) else ""
    options, in_our_layout = inputs.options, _in_our_layout
    if problem.is_latent and set(problem.queries) == {1}:
        q, options, in_our_layout = q.transpose(1, 2), replace(options, causal=False), _heads_as_queries
    is_plain = options.window is None and options.softcap is None and options.sinks is None
    found = {}
    for name in names:
        if name == FLEX:
            found[name + suffix] = Contender(_flex(q, k, v, options), in_our_layout, is_compiled=True)
        elif is_plain:
            found[name + suffix] = Contender(_sdpa(q, k, v, options, SDPA_BACKENDS[name]), in_our_layout)
    return found


def _dense(problem: AttentionProblem, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """q [B, Hq, Q, D], k [B, Hkv, C, D], v [B, Hkv, C, Dv], contiguous, with the float8 factors multiplied in."""
    options, batch = inputs.options, len(problem.queries)
    wide = torch.bfloat16 if inputs.q.dtype == torch.float8_e4m3fn else inputs.q.dtype

    def dense(tensor: Tensor, factors: Tensor | None) -> Tensor:
        scaled = tensor.to(wide) if factors is None else (tensor.float() * factors[:, None]).to(wide)
        return scaled.unflatten(0, (batch, -1)).transpose(1, 2).contiguous()

    group = problem.query_heads // problem.kv_heads
    q_scale = options.q_scale
    if q_scale is not None and q_scale.numel() > 1:
        q_scale = q_scale.repeat_interleave(group)
    keys = inputs.keys
    return (
        dense(inputs.q, q_scale),
        dense(keys.packed(keys.k), options.k_scale),
        dense(keys.packed(keys.v), options.v_scale),
    )


def _in_our_layout(answer: Tensor) -> Tensor:
    """[B, Hq, Q, Dv] -> [B * Q, Hq, Dv]."""
    return answer.transpose(1, 2).flatten(0, 1)


def _heads_as_queries(answer: Tensor) -> Tensor:
    """[B, 1, Hq, Dv] -> [B, Hq, Dv]."""
    return answer.squeeze(1)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, options: Options, backend: SDPBackend) -> Callable[[], Tensor]:
    queries, context = q.shape[2], k.shape[2]
    mask = None
    if options.causal and 1 < queries < context:
        mask = causal_lower_right(queries, context)
        if backend not in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
            # Only those two know this mask; for the others it would be made anew in every call.
            mask = torch.ones(queries, context, dtype=torch.bool, device=q.device).tril(context - queries)
    attend = partial(
        scaled_dot_product_attention, q, k, v,
        attn_mask=mask,
        is_causal=options.causal and queries == context,
        scale=options.resolved_scale(q.shape[-1]),
        enable_gqa=True,
    )  # fmt: skip

    def run() -> Tensor:
        with sdpa_kernel(backend):
            return attend()

    return run


def _flex(q: Tensor, k: Tensor, v: Tensor, options: Options) -> Callable[[], Tensor]:
    """Compiled on a GPU, where it is a fused kernel; as it stands on a CPU."""
    queries, context = q.shape[2], k.shape[2]
    offset, window, softcap, sinks = context - queries, options.window, options.softcap, options.sinks

    def is_visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        visible = key <= query + offset if options.causal else key >= 0
        return visible if window is None else visible & (key > query + offset - window)

    def capped(score: Tensor, _batch: Tensor, _head: Tensor, _query: Tensor, _key: Tensor) -> Tensor:
        return score if softcap is None else softcap * torch.tanh(score / softcap)

    call = partial(
        flex_attention, q, k, v,
        score_mod=None if softcap is None else capped,
        block_mask=create_block_mask(is_visible, None, None, queries, context, device=q.device),
        scale=options.resolved_scale(q.shape[-1]),
        enable_gqa=True,
    )  # fmt: skip

    def attend() -> Tensor:
        if sinks is None:
            return cast("Tensor", call())
        out, aux = cast("tuple[Tensor, AuxOutput]", call(return_aux=AuxRequest(lse=True)))
        seen = torch.sigmoid(cast("Tensor", aux.lse) - sinks[:, None])
        return (out * seen[..., None]).to(out.dtype)

    if not q.is_cuda:
        return attend
    return compiled(attend)
