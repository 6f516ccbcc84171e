"""The decoder: Llama and Qwen3 shapes in one forward pass over flattened tokens.

Shapes: T tokens of B sequences, H hidden_size, I intermediate_size, Hq / Hkv query / key-value heads, D head_dim.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import embedding, rms_norm, silu

from tokenwatt.architecture import Architecture
from tokenwatt.engines.native.batch import Batch
from tokenwatt.engines.native.kv_cache import KvCache
from tokenwatt.engines.native.weights import DecoderWeights, LayerWeights
from tokenwatt_kernels.attention.decode.call import decode_attention
from tokenwatt_kernels.attention.prefill.call import prefill_attention
from tokenwatt_kernels.matmul.call import matmul


class Decoder:
    """Weights plus rotary tables; the KV cache is handed in, so one decoder serves any of them."""

    def __init__(self, architecture: Architecture, weights: DecoderWeights, longest_context: int) -> None:
        self.architecture = architecture
        self.weights = weights
        self._cos, self._sin = rotary_tables(architecture, longest_context, weights.embedding.device)

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KvCache) -> torch.Tensor:
        """Logits [B, vocab_size] of each sequence's last token; keys and values of all T tokens go into `cache`."""
        hidden = embedding(batch.token_ids, self.weights.embedding)  # [T, H]
        cos, sin = self._cos[batch.positions], self._sin[batch.positions]  # [T, 1, D / 2]
        for index, layer in enumerate(self.weights.layers):
            normed = self._norm(hidden, layer.input_norm)
            hidden = hidden + self._attention(index, layer, normed, cos, sin, batch, cache)
            hidden = hidden + _gated_mlp(layer, self._norm(hidden, layer.post_attention_norm))
        return matmul(self._norm(hidden[batch.last_rows], self.weights.norm), self.weights.lm_head)

    def _attention(
        self,
        index: int,
        layer: LayerWeights,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        batch: Batch,
        cache: KvCache,
    ) -> torch.Tensor:
        shape = self.architecture
        qkv = matmul(hidden, layer.qkv_proj).view(len(hidden), -1, shape.head_dim)  # [T, Hq + 2 Hkv, D]
        query, key, value = qkv.split([shape.num_attention_heads, *2 * [shape.num_key_value_heads]], dim=1)
        if layer.q_norm is not None and layer.k_norm is not None:
            query, key = self._norm(query, layer.q_norm), self._norm(key, layer.k_norm)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        value = value.contiguous()
        cache.append(index, key, value, batch.slots)
        if batch.cu_seqlens is not None:
            out = prefill_attention(query, key, value, batch.cu_seqlens, batch.max_seqlen)
        else:
            assert batch.block_table is not None
            assert batch.context_lens is not None
            out = decode_attention(query, cache.keys[index], cache.values[index], batch.block_table, batch.context_lens)
        return matmul(out.flatten(1), layer.o_proj)

    def _norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, weight.shape, weight, self.architecture.rms_norm_eps)


def _gated_mlp(layer: LayerWeights, hidden: torch.Tensor) -> torch.Tensor:
    gate, up = matmul(hidden, layer.gate_up_proj).chunk(2, dim=-1)  # [T, I] each
    return matmul(silu(gate) * up, layer.down_proj)


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of [T, heads, D]: element i is paired with i + D/2, the convention of Hugging Face weights."""
    first, second = heads.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(heads.dtype)


def rotary_tables(
    architecture: Architecture, positions: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of every position, fp32 [positions, 1, D/2]; with Llama 3.1's frequency scaling where it applies."""
    half = architecture.head_dim // 2
    frequencies = architecture.rope_theta ** (-torch.arange(half, dtype=torch.float32, device=device) / half)
    scaling = architecture.rope_scaling
    if scaling is not None:
        turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
        band = scaling.high_freq_factor - scaling.low_freq_factor
        keep = ((turns - scaling.low_freq_factor) / band).clamp(0, 1)
        frequencies = frequencies * (keep + (1 - keep) / scaling.factor)
    angles = torch.arange(positions, dtype=torch.float32, device=device)[:, None, None] * frequencies
    return angles.cos(), angles.sin()
