"""The decoder: one forward pass over the flattened tokens of a step, the same for every family.

Shapes: T tokens of B sequences of which S are to get an output token, H hidden_size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwatt.architecture import Architecture, Rotary
from tokenwatt.engines.native.attention import GroupedLayer, LatentLayer, Tables
from tokenwatt.engines.native.batch import Batch
from tokenwatt.engines.native.kv_cache import KvCache
from tokenwatt.engines.native.linear import Float8, Linear
from tokenwatt.engines.native.mlp import Experts, GatedMlp
from tokenwatt.engines.native.parallel import Group
from tokenwatt_kernels.fused.norm.call import rms_norm, rms_norm_quantised


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Attention and MLP with the norms before them and, in a sandwich, behind them."""

    rotary: Rotary
    attention_norm: Tensor
    attention: GroupedLayer | LatentLayer
    after_attention_norm: Tensor | None
    mlp_norm: Tensor
    mlp: GatedMlp | Experts
    after_mlp_norm: Tensor | None


@dataclass(frozen=True, slots=True)
class Decoder:
    """All weights of this rank, with the tables that follow from the architecture."""

    architecture: Architecture
    group: Group
    embedding: Tensor
    """[vocab_size, H]"""
    layers: tuple[DecoderLayer, ...]
    norm: Tensor
    head: Linear
    """[vocab_size, H], or this rank's rows of it."""
    head_is_shared: bool
    embedding_scale: float
    """As the dtype of the weights has it, which is how transformers multiplies."""
    tables: dict[Rotary, Tables]

    @torch.inference_mode()
    def forward(self, token_ids: Tensor, batch: Batch, cache: KvCache) -> Tensor:
        """Logits [S, vocab_size] of token_ids [T]; keys and values of all T tokens go into `cache`."""
        architecture = self.architecture
        hidden = torch.nn.functional.embedding(token_ids, self.embedding)  # [T, H]
        if self.embedding_scale != 1:
            hidden = hidden * self.embedding_scale
        stream = Stream(hidden, architecture.rms_norm_eps, architecture.norm_unit_offset, self.group)
        for layer, kept in zip(self.layers, cache.layers, strict=True):
            x = stream.normed(layer.attention_norm, in_float8=layer.attention.takes_float8)
            answer = layer.attention(
                x, batch, kept, self.tables[layer.rotary], stream.residual(layer.after_attention_norm)
            )
            stream.join(answer, layer.after_attention_norm)
            x = stream.normed(layer.mlp_norm, in_float8=layer.mlp.takes_float8)
            stream.join(layer.mlp(x, stream.residual(layer.after_mlp_norm)), layer.after_mlp_norm)
        logits = self.head(stream.normed_rows(self.norm, batch.last))
        if self.head_is_shared:
            logits = self.group.join_columns(logits)
        cap = architecture.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)


@dataclass(slots=True)
class Stream:
    """The residual stream of T tokens, [T, H].

    What attention and MLP answer is added to it in their last product. Only where the answer is normed first does it
    wait for the next norm, which adds it.
    """

    hidden: Tensor
    eps: float
    unit_offset: bool
    group: Group
    pending: Tensor | None = None

    def residual(self, after_norm: Tensor | None) -> Tensor | None:
        """What the last product of an answer adds: the stream, on one rank, unless the answer is normed first."""
        return self.group.own(self.hidden) if after_norm is None else None

    def join(self, answer: Tensor, after_norm: Tensor | None) -> None:
        """Take this rank's part of an answer, to which `residual` was added, into the stream."""
        answer = self.group.sum(answer)
        if after_norm is None:
            self.hidden = answer
        else:
            self.pending = self._norm(answer, after_norm, None)

    def normed(self, weight: Tensor, *, in_float8: bool = False) -> Tensor | Float8:
        """The norm of the stream, [T, H]."""
        pending, self.pending = self.pending, None
        x, residual = (self.hidden, None) if pending is None else (pending, self.hidden)
        if in_float8:
            return Float8(*rms_norm_quantised(x, weight, residual, eps=self.eps, unit_offset=self.unit_offset))
        return self._norm(x, weight, residual)

    def normed_rows(self, weight: Tensor, rows: Tensor) -> Tensor:
        """The norm of some rows [S], [S, H]."""
        hidden = self.hidden[rows]
        if self.pending is None:
            return self._norm(hidden, weight, None)
        return self._norm(self.pending[rows], weight, hidden)

    def _norm(self, x: Tensor, weight: Tensor, residual: Tensor | None) -> Tensor:
        return rms_norm(x, weight, residual, eps=self.eps, unit_offset=self.unit_offset)
