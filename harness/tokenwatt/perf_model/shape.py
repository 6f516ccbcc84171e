"""Shape of a model to be predicted: what each layer multiplies, attends to and keeps. No weights, no engine.

Wider than `Architecture`, which is what the native engine runs: recurrent mixers and sparse attention are here too, and
layers may differ in everything. Names are those of `config.json` where it has one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tokenwatt.architecture import Architecture, DenseMlp, GroupedAttention, LatentAttention, MixtureOfExperts


@dataclass(frozen=True, slots=True)
class SparseIndex:
    """What picks the keys that latent attention then sees (DeepSeek-V3.2, arXiv 2512.02556)."""

    num_heads: int
    head_dim: int
    top_k: int
    """Keys that a query sees."""


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """Gated delta rule (arXiv 2412.06464): a matrix for each value head in place of a cache that grows."""

    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int
    """Width of the causal convolution over queries, keys and values."""


@dataclass(frozen=True, slots=True)
class StateSpace:
    """Mamba-2 (arXiv 2405.21060): a state of head_dim x state_size for each head in place of a cache that grows."""

    num_heads: int
    head_dim: int
    state_size: int
    num_groups: int
    conv_kernel: int


@dataclass(frozen=True, slots=True)
class PlainMlp:
    """down(activation(up)): an MLP without a gate."""

    intermediate_size: int


Mixer = GroupedAttention | LatentAttention | LinearAttention | StateSpace
Mlp = DenseMlp | PlainMlp | MixtureOfExperts


@dataclass(frozen=True, slots=True)
class Block:
    """One layer. A layer that only mixes or only has an MLP leaves the other None (Nemotron-H)."""

    mixer: Mixer | None
    mlp: Mlp | None
    window: int | None = None
    """Keys that a query sees, its own included; None for all before it."""
    index: SparseIndex | None = None
    """Of sparse latent attention."""
    has_output_gate: bool = False
    """Whether a projection as wide as the queries gates the answer of attention (Qwen3.5)."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder-only transformer, layer by layer."""

    name: str
    hidden_size: int
    vocab_size: int
    blocks: tuple[Block, ...]
    tie_word_embeddings: bool = False

    @property
    def counted(self) -> Counter[Block]:
        """Each kind of layer with how many the model has of it."""
        return Counter(self.blocks)


def shape_of_architecture(architecture: Architecture) -> ModelShape:
    """The same model as the predictor sees it."""
    return ModelShape(
        architecture.name,
        architecture.hidden_size,
        architecture.vocab_size,
        tuple(Block(architecture.attention, layer.mlp, layer.window) for layer in architecture.layers),
        architecture.tie_word_embeddings,
    )
