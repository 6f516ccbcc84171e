"""Attention in plain torch, one sequence after another: the truth of the kernels, and the CPU path of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from tokenwatt_kernels.arguments import FLOAT8
from tokenwatt_kernels.attention.keys import Keys, check_values
from tokenwatt_kernels.attention.options import Options


def attention_reference(
    q: Tensor, k: Tensor, v: Tensor, query_starts: Sequence[int], key_starts: Sequence[int], options: Options
) -> tuple[Tensor, Tensor]:
    """softmax(scores) v of packed sequences, computed in the dtype of q.

    q: [Tq, Hq, D]; k: [Tk, Hkv, D]; v: [Tk, Hkv, Dv]. Sequence b owns query rows query_starts[b]:query_starts[b + 1]
    and key rows key_starts[b]:key_starts[b + 1]; its last query stands at the position of its last key.
    Returns the answer [Tq, Hq, Dv] and the log-sum-exp [Tq, Hq] (natural). A query that sees nothing gets 0 and -inf.
    """
    out = torch.zeros(*q.shape[:2], v.shape[-1], dtype=q.dtype, device=q.device)
    log_sum = torch.empty(q.shape[:2], dtype=q.dtype, device=q.device)
    for (first, last), (first_key, last_key) in zip(pairwise(query_starts), pairwise(key_starts), strict=True):
        if last > first:
            out[first:last], log_sum[first:last] = _one_sequence(
                q[first:last], k[first_key:last_key], v[first_key:last_key], options
            )
    return out, log_sum


def reference_answer(
    q: Tensor, keys: Keys, query_starts: Sequence[int], options: Options, out: Tensor, lse: Tensor | None
) -> Tensor:
    """Fill `out` and, unless None, `lse` on a CPU: with the reference in the dtype of q, in fp32 for float8.

    Raises ValueError for lengths and pages outside their tensors.
    """
    check_values(keys, q, query_starts)
    wide = torch.float32 if q.dtype == FLOAT8 else q.dtype
    k, v = (keys.packed(tensor).to(wide) for tensor in (keys.k, keys.v))
    answer, log_sum = attention_reference(q.to(wide), k, v, query_starts, keys.bounds(), options)
    if lse is not None:
        lse.copy_(log_sum)
    return out.copy_(answer)


def _one_sequence(q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """q [L, Hq, D], k [C, Hkv, D], v [C, Hkv, Dv] -> [L, Hq, Dv], [L, Hq]. Query heads h*G .. share KV head h."""
    length, (context, kv_heads, _) = len(q), k.shape
    grouped = q.unflatten(1, (kv_heads, -1))  # [L, Hkv, G, D]
    scores = torch.einsum("qhgd,khd->hgqk", grouped, k) * options.resolved_scale(q.shape[-1])
    for factors in (options.q_scale, options.k_scale):
        if factors is not None:
            scores = scores * factors.to(scores.dtype)[:, None, None, None]
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    hidden = ~_visible(length, context, options, q.device)
    scores = scores.masked_fill(hidden, float("-inf"))
    if options.sinks is not None:
        sinks = options.sinks.to(scores.dtype).unflatten(0, (kv_heads, -1))[:, :, None, None]
        scores = torch.cat([scores, sinks.expand(-1, -1, length, 1)], dim=-1)
    # Where everything is hidden the softmax is NaN, and the weights are nought.
    weights = scores.softmax(dim=-1)[..., :context].masked_fill(hidden, 0.0)
    if options.v_scale is not None:
        weights = weights * options.v_scale.to(weights.dtype)[:, None, None, None]
    out = torch.einsum("hgqk,khd->qhgd", weights, v).flatten(1, 2)
    return out, scores.logsumexp(dim=-1).flatten(0, 1).T


def _visible(length: int, context: int, options: Options, device: torch.device) -> Tensor:
    """[L, C]: which keys each query sees."""
    positions = torch.arange(context - length, context, device=device)[:, None]
    keys = torch.arange(context, device=device)[None, :]
    visible = torch.ones(length, context, dtype=torch.bool, device=device)
    if options.causal:
        visible &= keys <= positions
    if options.window is not None:
        visible &= keys > positions - options.window
    return visible
