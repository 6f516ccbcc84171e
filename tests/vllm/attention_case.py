"""A step of vLLM with decodes and chunks, what vLLM hands to a layer for it, and the answer by plain torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheLayout, create_kv_cache_views

from tokenwatt.engines.vllm_engine.attention.layer import TokenwattAttention
from tokenwatt.engines.vllm_engine.attention.metadata import StepMetadata, StepMetadataBuilder

BLOCK = 64
CONFIG: Any = SimpleNamespace(
    scheduler_config=SimpleNamespace(max_num_seqs=8),
    speculative_config=None,
    parallel_config=SimpleNamespace(decode_context_parallel_size=1),
)
"""As much of vLLM's configuration as a builder reads."""


@dataclass(frozen=True)
class Case:
    """Sequences with contexts (tokens, those of the step included), of which the step has the last few."""

    contexts: tuple[int, ...] = (70, 1, 130, 65, 40)
    counts: tuple[int, ...] = (1, 1, 1, 65, 7)
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 32
    window: int | None = None
    softcap: float | None = None
    has_sinks: bool = False
    cache_dtype: str = "auto"
    dtype: torch.dtype = torch.float32
    layout: KVCacheLayout = KVCacheLayout.LBNHC

    @property
    def scale(self) -> float:
        return self.head_size**-0.5


def spec_of(case: Case) -> FullAttentionSpec:
    cached = torch.uint8 if case.cache_dtype.startswith("fp8") else case.dtype
    return FullAttentionSpec(
        block_size=BLOCK, num_kv_heads=case.kv_heads, head_size=case.head_size, head_size_v=case.head_size, dtype=cached
    )


def vllm_caches(case: Case, blocks: int, layers: int = 1) -> list[Tensor]:
    """Caches as vLLM makes them, filled with what nobody must read: NaN."""
    spec = spec_of(case)
    page = spec.page_size_bytes
    raw = torch.full((layers * blocks * page,), -1, dtype=torch.int8)
    where: Any = SimpleNamespace(
        layers=[f"layer{index}" for index in range(layers)], layer_stride=blocks * page, block_stride=page, offset=0
    )
    return create_kv_cache_views(raw, spec, blocks, case.layout, where, BLOCK)


def common(case: Case) -> CommonAttentionMetadata:
    """What vLLM says of the step: sequence b has blocks b * width + 1 and on, so block 0 is nobody's."""
    width = -(-max(case.contexts) // BLOCK)
    starts = torch.tensor([0, *case.counts]).cumsum(0).int()
    table = torch.arange(1, 1 + len(case.contexts) * width, dtype=torch.int32).view(-1, width)
    slots = []
    for row, context, count in zip(table, case.contexts, case.counts, strict=True):
        places = torch.arange(context - count, context)
        slots.append(row[places // BLOCK] * BLOCK + places % BLOCK)
    return CommonAttentionMetadata(
        query_start_loc=starts,
        query_start_loc_cpu=starts,
        seq_lens=torch.tensor(case.contexts, dtype=torch.int32),
        num_reqs=len(case.contexts),
        num_actual_tokens=sum(case.counts),
        max_query_len=max(case.counts),
        max_seq_len=max(case.contexts),
        block_table_tensor=table,
        slot_mapping=torch.cat(slots).long(),
    )


def metadata(case: Case) -> StepMetadata:
    builder = StepMetadataBuilder(spec_of(case), ["layer0"], CONFIG, torch.device("cpu"))
    return builder.build(0, common(case))


def answer_and_truth(case: Case) -> tuple[Tensor, Tensor]:
    """[T, Hq, D] twice: what the backend's layer writes, and plain torch's over all keys of each sequence."""
    generator = torch.Generator().manual_seed(0)
    total = sum(case.contexts)

    def draw(*shape: int) -> Tensor:
        return torch.empty(prod(shape)).normal_(generator=generator).view(shape).to(case.dtype)

    keys, values = draw(total, case.kv_heads, case.head_size), draw(total, case.kv_heads, case.head_size)
    q = draw(sum(case.counts), case.heads, case.head_size)
    sinks = draw(case.heads) if case.has_sinks else None
    layer: Any = SimpleNamespace(_k_scale=torch.tensor(0.5), _v_scale=torch.tensor(0.25))
    impl = TokenwattAttention(
        case.heads, case.head_size, case.scale, case.kv_heads, None, case.window, case.cache_dtype, case.softcap,
        sinks=sinks,
    )  # fmt: skip
    impl.process_weights_after_loading(case.dtype)
    everything = replace(case, counts=case.contexts)
    (cache,) = vllm_caches(case, 1 + common(case).block_table_tensor.numel())
    impl.do_kv_cache_update(layer, keys, values, cache, common(everything).slot_mapping)
    out = torch.full((len(q) + 3, case.heads, case.head_size), 7.0, dtype=case.dtype)  # three rows of padding
    padded = torch.cat([q, q[:3]])
    impl.forward(layer, padded, padded, padded, cache, metadata(case), out)
    assert (out[len(q) :] == 7.0).all()
    return out[: len(q)], _truth(case, q, _as_cached(case, keys, 0.5), _as_cached(case, values, 0.25), sinks)


def _as_cached(case: Case, x: Tensor, scale: float) -> Tensor:
    """What a float8 cache makes of numbers."""
    if not case.cache_dtype.startswith("fp8"):
        return x
    return (x.float() / scale).to(torch.float8_e4m3fn).float() * scale


def _truth(case: Case, q: Tensor, keys: Tensor, values: Tensor, sinks: Tensor | None) -> Tensor:
    answers, group = [], case.heads // case.kv_heads
    sequences = zip(
        q.split(case.counts), keys.split(case.contexts), values.split(case.contexts), case.contexts, case.counts,
        strict=True,
    )  # fmt: skip
    for mine, k, v, context, count in sequences:
        k, v = (x.float().repeat_interleave(group, dim=1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", mine.float(), k) * case.scale
        if case.softcap is not None:
            scores = case.softcap * torch.tanh(scores / case.softcap)
        position, key = torch.arange(context - count, context)[:, None], torch.arange(context)
        hidden = key > position
        if case.window is not None:
            hidden |= key <= position - case.window
        scores = scores.masked_fill(hidden, float("-inf"))
        if sinks is not None:
            scores = torch.cat([scores, sinks.float()[:, None, None].expand(-1, count, 1)], dim=-1)
        weights = scores.softmax(-1)[..., :context]
        answers.append(torch.einsum("hqk,khd->qhd", weights, v))
    return torch.cat(answers).to(case.dtype)
