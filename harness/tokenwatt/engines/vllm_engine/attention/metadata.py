"""A step of vLLM as decodes and chunks: the decodes first, as vLLM is told to sort its batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.v1.attention.backend import (
    AttentionCGSupport,
    AttentionMetadata,
    AttentionMetadataBuilder,
    CommonAttentionMetadata,
)
from vllm.v1.attention.backends.utils import split_decodes_and_prefills


@dataclass(slots=True)
class StepMetadata(AttentionMetadata):
    """What all layers of a group need to know of a step with T tokens of B sequences."""

    num_actual_tokens: int
    """T; rows behind are padding. (vLLM's name.)"""
    decodes: int
    """Sequences that have one token each; they come first."""
    longest_chunk: int
    """Most tokens of one of the others; 0 without any."""
    context_lens: Tensor
    """int32 [B], tokens in the cache, those of the step included; 0 for a row that is padding."""
    block_table: Tensor
    """int32 [B, blocks], pages of `cache.pages`."""
    chunk_starts: Tensor
    """int32 [B - decodes + 1], first row of each chunk, counted from the first chunk's."""


class StepMetadataBuilder(AttentionMetadataBuilder[StepMetadata]):
    """Makes the metadata of each step.

    A CUDA graph may capture steps of decodes alone: the kernel finds its shares from the lengths on the device, and
    there the block table stands in one place. With chunks the launch depends on the longest of them.
    """

    _cudagraph_support: ClassVar[AttentionCGSupport] = AttentionCGSupport.UNIFORM_SINGLE_TOKEN_DECODE

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self._init_reorder_batch_threshold(1)
        self._most_sequences: int = vllm_config.scheduler_config.max_num_seqs
        self._table: Tensor | None = None

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> StepMetadata:
        """vLLM says all of it; the block table is turned into pages."""
        common = common_attn_metadata
        if common.causal is not True:
            raise NotImplementedError("attention backend TOKENWATT is causal; this model, or request, is not")
        sequences, chunks, tokens, _ = split_decodes_and_prefills(common)
        # Of a batch of decodes that a graph has padded, vLLM may count more sequences than tokens; the last are empty.
        decodes = sequences if chunks else tokens
        return StepMetadata(
            num_actual_tokens=common.num_actual_tokens,
            decodes=decodes,
            longest_chunk=common.max_query_len if chunks else 0,
            context_lens=common.seq_lens,
            block_table=self._pages(common.block_table_tensor),
            chunk_starts=common.query_start_loc[sequences:] - tokens,
        )

    def build_for_cudagraph_capture(self, common_attn_metadata: CommonAttentionMetadata) -> StepMetadata:
        """The same with contexts of one token, since a capture is also run: with vLLM's longest ones it takes long."""
        metadata = self.build(0, common_attn_metadata)
        metadata.context_lens.fill_(1)
        return metadata

    def _pages(self, table: Tensor) -> Tensor:
        """A table of blocks as one of pages, always in the same place, where graphs look for it."""
        rows, width = table.shape
        if self._table is None or self._table.shape[0] < rows or self._table.shape[1] != width:
            self._table = torch.zeros(max(rows, self._most_sequences), width, dtype=table.dtype, device=table.device)
        return torch.mul(table, 2, out=self._table[:rows])
