"""Attention problems as calls of the public functions, and calls as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from tokenwatt_kernels.attention.decode.call import decode_attention, mla_decode_attention
from tokenwatt_kernels.attention.inputs import Inputs
from tokenwatt_kernels.attention.mixed import mixed_attention
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.prefill.call import paged_prefill_attention, prefill_attention
from tokenwatt_kernels.attention.problem import AttentionProblem


def public_call(problem: AttentionProblem, inputs: Inputs) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The function that an engine would call, and its arguments by name, among them an lse full of NaN.

    The first word of the problem's name says which: "decode", "mixed", or else prefill.
    """
    keys, options, kind = inputs.keys, inputs.options, problem.name.split()[0]
    longest = max(problem.queries)
    arguments: dict[str, Any] = {
        "q": inputs.q,
        "options": options,
        "lse": torch.full(inputs.q.shape[:2], float("nan"), device=inputs.q.device),
    }
    chunks = {"cu_seqlens": inputs.query_starts, "max_seqlen": longest}
    if keys.block_table is None:
        return prefill_attention, arguments | chunks | {"k": keys.k, "v": keys.v, "cu_seqlens_k": keys.starts}
    arguments |= {"block_table": keys.block_table, "context_lens": keys.context_lens}
    if kind == "decode":
        arguments |= {name: arguments[name].unflatten(0, (-1, longest)) for name in ("q", "lse")}
    if problem.is_latent:
        arguments["options"] = replace(options, scale=problem.head_dim**-0.5)
        return mla_decode_attention, arguments | {"latent_cache": keys.k, "value_dim": problem.values}
    arguments |= {"k_cache": keys.k, "v_cache": keys.v}
    if kind == "decode":
        return decode_attention, arguments
    if kind == "mixed":
        return mixed_attention, arguments | chunks | {"decodes": problem.queries.count(1)}
    return paged_prefill_attention, arguments | chunks


def flattened(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the operator takes them: the options one by one."""
    options = arguments["options"]
    spread = {field.name: getattr(options, field.name) for field in fields(Options)}
    return {name: value for name, value in arguments.items() if name != "options"} | spread


def captured(call: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A CUDA graph of one call, and the answer that a replay fills."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = call()
    return graph, answer
