"""The part of a layer that looks at other tokens: projections, rotation, append to the cache, attention, projection.

Shapes: T tokens of B sequences, H hidden_size, Hq / Hkv query / key-value heads, D head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwatt.architecture import GroupedAttention, LatentAttention, Rotary
from tokenwatt.engines.native.batch import Batch
from tokenwatt.engines.native.linear import Float8, Linear
from tokenwatt_kernels.attention.decode.call import mla_decode_attention
from tokenwatt_kernels.attention.mixed import mixed_attention
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.prefill.call import prefill_attention
from tokenwatt_kernels.fused.norm.call import rms_norm
from tokenwatt_kernels.fused.rope.call import rotate_and_append, rotate_and_append_latent

Tables = tuple[Tensor, Tensor]
"""cos and sin [positions, rotary / 2], fp32."""


@dataclass(frozen=True, slots=True)
class GroupedLayer:
    """Grouped-query attention over the cache's keys and values."""

    shape: GroupedAttention
    """Of this rank: its heads."""
    qkv: Linear
    """[(Hq + 2 Hkv) D, H]"""
    out: Linear
    """[H, Hq D]"""
    q_norm: Tensor | None
    k_norm: Tensor | None
    options: Options
    eps: float
    norm_unit_offset: bool

    @property
    def takes_float8(self) -> bool:
        """Whether its input may come in float8."""
        return self.qkv.takes_float8

    def __call__(
        self, x: Tensor | Float8, batch: Batch, cache: Tensor, tables: Tables, residual: Tensor | None
    ) -> Tensor:
        """[T, H] for x [T, H]; keys and values of all T tokens go into `cache`, residual is added."""
        shape = self.shape
        qkv = self.qkv(x)  # [T, (Hq + 2 Hkv) D]
        heads = qkv.view(len(qkv), -1, shape.head_dim)
        q, k, v = heads.split([shape.num_attention_heads, *2 * [shape.num_key_value_heads]], dim=1)
        keys, values = cache.unbind()
        q = rotate_and_append(
            q, k, v, *tables, batch.positions, keys, values, batch.slots, q_weight=self.q_norm, k_weight=self.k_norm,
            eps=self.eps, unit_offset=self.norm_unit_offset,
        )  # fmt: skip
        answer = mixed_attention(
            q, keys, values, batch.block_table, batch.context_lens, batch.cu_seqlens, batch.longest_chunk,
            decodes=batch.decodes, options=self.options,
        )  # fmt: skip
        return self.out(answer.flatten(1), residual)


@dataclass(frozen=True, slots=True)
class LatentLayer:
    """Multi-head latent attention. L kv_lora_rank, R qk_rope_head_dim, N qk_nope_head_dim, V v_head_dim.

    A decoding query is multiplied by the key up-projection and meets the latents themselves; for a chunk keys and
    values are made from the latents of its whole context, which costs less where many queries meet them.
    """

    shape: LatentAttention
    rotary: Rotary
    q_a: Linear | None
    q_a_norm: Tensor | None
    q_b: Linear
    """[Hq (N + R), q_lora_rank], or [..., H] without q_a."""
    kv_a: Linear
    """[L + R, H]"""
    kv_a_norm: Tensor
    kv_b: Tensor
    """[Hq, N + V, L]"""
    out: Linear
    """[H, Hq V]"""
    eps: float

    @property
    def takes_float8(self) -> bool:
        """Two projections read its input; one format serves both."""
        return self.kv_a.takes_float8

    def __call__(
        self, x: Tensor | Float8, batch: Batch, cache: Tensor, tables: Tables, residual: Tensor | None
    ) -> Tensor:
        """[T, H] for x [T, H]; the latents of all T tokens go into `cache`, residual is added."""
        shape, (latents,) = self.shape, cache.unbind()
        inner = x if self.q_a is None or self.q_a_norm is None else rms_norm(self.q_a(x), self.q_a_norm, eps=self.eps)
        q = self.q_b(inner)
        q = q.view(len(q), shape.num_attention_heads, shape.qk_head_dim)
        q_nope, q_rope = q.split([shape.qk_nope_head_dim, shape.qk_rope_head_dim], dim=-1)
        latent, k_rope = self.kv_a(x).split([shape.kv_lora_rank, shape.qk_rope_head_dim], dim=-1)
        q_rope = rotate_and_append_latent(
            q_rope, k_rope, rms_norm(latent, self.kv_a_norm, eps=self.eps), *tables, batch.positions, latents,
            batch.slots, interleaved=self.rotary.interleaved,
        )  # fmt: skip
        answer = q.new_empty(len(q), shape.num_attention_heads, shape.v_head_dim)
        if batch.decodes:
            few = slice(0, batch.decodes)
            answer[few] = self._decode(q_nope[few], q_rope[few], batch, latents)
        if batch.longest_chunk:
            rest = slice(batch.decodes, None)
            answer[rest] = self._chunks(torch.cat([q_nope[rest], q_rope[rest]], dim=-1), batch, latents)
        return self.out(answer.flatten(1), residual)

    def _decode(self, q_nope: Tensor, q_rope: Tensor, batch: Batch, latents: Tensor) -> Tensor:
        """[decodes, Hq, V]"""
        up_keys, up_values = self.kv_b.split([self.shape.qk_nope_head_dim, self.shape.v_head_dim], dim=1)
        absorbed = torch.bmm(q_nope.transpose(0, 1), up_keys).transpose(0, 1)  # [decodes, Hq, L]
        sums = mla_decode_attention(
            torch.cat([absorbed, q_rope], dim=-1), latents, batch.block_table[: batch.decodes],
            batch.context_lens[: batch.decodes], value_dim=self.shape.kv_lora_rank, options=self._options,
        )  # fmt: skip
        return torch.bmm(sums.transpose(0, 1), up_values.transpose(1, 2)).transpose(0, 1)

    def _chunks(self, q: Tensor, batch: Batch, latents: Tensor) -> Tensor:
        """[T - decodes, Hq, V] for q [T - decodes, Hq, N + R]."""
        shape = self.shape
        assert batch.context_slots is not None
        cached = latents.flatten(0, 2)[batch.context_slots].to(q.dtype)  # [Tk, L + R]
        latent, k_rope = cached.split([shape.kv_lora_rank, shape.qk_rope_head_dim], dim=-1)
        expanded = Linear(self.kv_b.flatten(0, 1))(latent).view(len(latent), *self.kv_b.shape[:2])
        k_nope, v = expanded.split([shape.qk_nope_head_dim, shape.v_head_dim], dim=-1)
        k = torch.cat([k_nope, k_rope[:, None].expand(-1, shape.num_attention_heads, -1)], dim=-1)
        starts = batch.cu_seqlens[batch.decodes :] - batch.decodes
        return prefill_attention(
            q, k, v, starts, batch.longest_chunk, cu_seqlens_k=batch.context_bounds, options=self._options
        )

    @property
    def _options(self) -> Options:
        return Options(scale=self.shape.scale)
