"""Attention of one layer: keys and values go into the cache, then decodes and chunks are answered.

T tokens of B sequences, Hq / Hkv query / key-value heads, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.v1.attention.backend import AttentionImpl, AttentionType

from tokenwatt.engines.vllm_engine.attention.cache import blocks, pages
from tokenwatt.engines.vllm_engine.attention.metadata import StepMetadata
from tokenwatt_kernels.arguments import FLOAT8
from tokenwatt_kernels.attention.decode.call import attend as attend_decodes
from tokenwatt_kernels.attention.decode.call import check_options
from tokenwatt_kernels.attention.keys import Keys, check_paged
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.prefill.call import attend as attend_chunks
from tokenwatt_kernels.fused.rope.call import rotate_and_append


class TokenwattAttention(AttentionImpl[StepMetadata]):
    """vLLM makes one for each layer."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        sinks: Tensor | None = None,
    ) -> None:
        if alibi_slopes is not None:
            raise NotImplementedError("attention backend TOKENWATT has no ALiBi slopes")
        if attn_type != AttentionType.DECODER:
            raise NotImplementedError(f"attention backend TOKENWATT has decoder attention only, got {attn_type}")
        self.num_heads, self.head_size, self.scale = num_heads, head_size, float(scale)
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.kv_cache_dtype = kv_cache_dtype
        self.kv_sharing_target_layer_name = kv_sharing_target_layer_name
        self._window = sliding_window
        self._softcap = logits_soft_cap or None
        self._sinks = sinks
        # A rotation by nothing; vLLM makes layers on the device where they are used.
        self._cos, self._sin = torch.ones(1, 1, dtype=torch.float32), torch.zeros(1, 1, dtype=torch.float32)
        self._is_checked = False

    def process_weights_after_loading(self, act_dtype: torch.dtype) -> None:
        """Sinks in fp32, as the kernels take them: before, they are not loaded."""
        if self._sinks is not None:
            self._sinks = self._sinks.detach().float().contiguous()

    def forward(
        self,
        layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: StepMetadata | None,
        output: Tensor,
        output_scale: Tensor | None = None,
        output_block_scale: Tensor | None = None,
    ) -> Tensor:
        """Write answers [T, Hq, D] to queries [T, Hq, D] into `output`, and return it.

        kv_cache: [blocks, Hkv, N, 2 D], which has the keys of these tokens already. attn_metadata: None while vLLM
        measures memory.
        """
        if output_scale is not None or output_block_scale is not None:
            raise NotImplementedError("attention backend TOKENWATT does not quantise its answers")
        if attn_metadata is None:
            return output.zero_()
        tokens = attn_metadata.num_actual_tokens
        k_pages, v_pages = pages(self._typed(kv_cache), self.head_size)
        self._attend(query[:tokens], k_pages, v_pages, attn_metadata, self._options(layer), output[:tokens])
        return output

    def _attend(
        self, q: Tensor, k_pages: Tensor, v_pages: Tensor, step: StepMetadata, options: Options, out: Tensor
    ) -> None:
        """Two launches: decodes, and chunks."""
        table, contexts = step.block_table, step.context_lens
        if not self._is_checked:
            checked = check_paged(q, k_pages, v_pages, table, contexts, len(contexts))
            check_options(options, q, checked.heads, "attention backend TOKENWATT")
            self._is_checked = True
        few, rest = slice(0, step.decodes), slice(step.decodes, None)
        if step.decodes:
            keys = Keys(k_pages, v_pages, block_table=table[few], context_lens=contexts[few])
            attend_decodes(q[few], 1, keys, options, None, out[few])
        if step.longest_chunk:
            keys = Keys(k_pages, v_pages, block_table=table[rest], context_lens=contexts[rest])
            attend_chunks(q[rest], keys, step.chunk_starts, step.longest_chunk, options, None, out[rest])

    def do_kv_cache_update(
        self, layer: Any, key: Tensor, value: Tensor, kv_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        """Write keys and values [T, Hkv, D] to their slots; a negative slot is none.

        vLLM has rotated the keys, so the kernel that appends is given a rotation by nothing: cos 1, sin 0.
        """
        k_blocks, v_blocks = blocks(self._typed(kv_cache), self.head_size)
        tokens = len(slot_mapping)
        key, value = key[:tokens], value[:tokens]
        rotate_and_append(
            key[:, :1], key, value, self._cos, self._sin, torch.zeros_like(slot_mapping), k_blocks, v_blocks,
            slot_mapping, *self._scales(layer),
        )  # fmt: skip

    def _options(self, layer: Any) -> Options:
        k_scale, v_scale = self._scales(layer)
        return Options(
            scale=self.scale,
            window=self._window,
            softcap=self._softcap,
            sinks=self._sinks,
            k_scale=k_scale,
            v_scale=v_scale,
        )

    def _scales(self, layer: Any) -> tuple[Tensor | None, Tensor | None]:
        """[1] fp32 each: what a float8 cache was divided by."""
        if not self._is_float8:
            return None, None
        return layer._k_scale.view(1), layer._v_scale.view(1)

    def _typed(self, kv_cache: Tensor) -> Tensor:
        """vLLM keeps float8 as bytes."""
        return kv_cache.view(FLOAT8) if self._is_float8 else kv_cache

    @property
    def _is_float8(self) -> bool:
        return self.kv_cache_dtype.startswith("fp8")
