"""What a decoder-only transformer is made of, and what follows from that: parameters and bytes. No weights, no torch.

One set of parts describes every family that tokenwatt runs; a family is a choice of parts (`model_config` reads them
from a Hugging Face `config.json`). Names are those of `config.json` where it has one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

BYTES_PER_ELEMENT = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """All frequencies divided by `factor` (position interpolation, arXiv 2306.15595)."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Frequency scaling of Llama 3.1: low frequencies are divided by `factor`, a band between is interpolated."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071): frequencies that turn fewer than beta_slow times over the original context are divided
    by `factor`, those above beta_fast stay, a ramp lies between; cos and sin are multiplied by `attention_factor`."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    beta_slow: float
    attention_factor: float
    truncate: bool
    """Whether the ends of the ramp are rounded to whole dimensions."""


@dataclass(frozen=True, slots=True)
class Rotary:
    """A rotary embedding (arXiv 2104.09864)."""

    dim: int
    """Elements of a head that turn, the first ones of a key (the last of a latent's)."""
    theta: float
    scaling: LinearScaling | Llama3Scaling | YarnScaling | None = None
    interleaved: bool = False
    """Pairs are elements 2 i and 2 i + 1, not i and i + dim / 2."""


@dataclass(frozen=True, slots=True)
class GroupedAttention:
    """Grouped-query attention (arXiv 2305.13245); with as many KV heads as query heads it is multi-head attention."""

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    scale: float
    """What q.k is multiplied by."""
    softcap: float | None = None
    """c of c * tanh(score / c)."""
    has_qkv_bias: bool = False
    has_o_bias: bool = False
    has_qk_norm: bool = False
    """RMS norm of each query and key head, before rotation."""
    has_sinks: bool = False
    """One more score per query head, without a value."""

    @property
    def q_size(self) -> int:
        """Width of the query projection."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the key projection, and of the value projection."""
        return self.num_key_value_heads * self.head_dim

    @property
    def cached_size(self) -> int:
        """Elements that the KV cache keeps of a token."""
        return 2 * self.kv_size

    @property
    def pair_flop(self) -> int:
        """Operations of one query token meeting one key token, all heads."""
        return 4 * self.q_size

    def matmul_parameters(self, hidden_size: int) -> int:
        """Weights of the projections."""
        return hidden_size * (2 * self.q_size + 2 * self.kv_size)

    def other_parameters(self, hidden_size: int) -> int:
        """Biases, head norms and sinks."""
        return (
            self.has_qkv_bias * (self.q_size + 2 * self.kv_size)
            + self.has_o_bias * hidden_size
            + self.has_qk_norm * 2 * self.head_dim
            + self.has_sinks * self.num_attention_heads
        )


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): the cache keeps one latent and one rotary key."""

    num_attention_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    scale: float

    @property
    def qk_head_dim(self) -> int:
        """Elements of a query head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def cached_size(self) -> int:
        """Elements that the KV cache keeps of a token."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def pair_flop(self) -> int:
        """Operations of one query token meeting one key token with keys and values expanded, all heads."""
        return 2 * self.num_attention_heads * (self.qk_head_dim + self.v_head_dim)

    def matmul_parameters(self, hidden_size: int) -> int:
        """Weights of the projections."""
        q_size = self.num_attention_heads * self.qk_head_dim
        queries = hidden_size * q_size if self.q_lora_rank is None else self.q_lora_rank * (hidden_size + q_size)
        expanded = self.num_attention_heads * (self.qk_nope_head_dim + self.v_head_dim)
        values = self.num_attention_heads * self.v_head_dim
        return queries + hidden_size * self.cached_size + self.kv_lora_rank * expanded + values * hidden_size

    def other_parameters(self, hidden_size: int) -> int:
        """Norms of the latents."""
        del hidden_size
        return self.kv_lora_rank + (self.q_lora_rank or 0)


@dataclass(frozen=True, slots=True)
class DenseMlp:
    """down(activation(gate, up)), the same for every token."""

    intermediate_size: int

    def matmul_parameters(self, hidden_size: int) -> int:
        """Weights of the three projections."""
        return 3 * hidden_size * self.intermediate_size


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """num_experts MLPs, of which a router gives each token top_k; the router's options are those of `route_top_k`."""

    num_experts: int
    top_k: int
    intermediate_size: int
    """Of one expert."""
    score: Literal["softmax", "sigmoid"] = "softmax"
    renormalize: bool = True
    groups: int = 1
    top_groups: int = 1
    scale: float = 1.0
    has_correction_bias: bool = False
    has_bias: bool = False
    """Of the router and of both projections of each expert (gpt-oss)."""
    shared_intermediate_size: int = 0
    """Of the MLP that every token goes through beside its experts; 0 for none."""

    def expert_parameters(self, hidden_size: int) -> int:
        """Weights of one expert's projections."""
        return 3 * hidden_size * self.intermediate_size

    def always_parameters(self, hidden_size: int) -> int:
        """Weights that every token is multiplied with: the router and the shared MLP."""
        return hidden_size * (self.num_experts + 3 * self.shared_intermediate_size)

    def other_parameters(self, hidden_size: int) -> int:
        """Biases."""
        biases = self.num_experts * (1 + 2 * self.intermediate_size + hidden_size) if self.has_bias else 0
        return biases + (self.num_experts if self.has_correction_bias else 0)

    def touched(self, tokens: float) -> float:
        """Experts that `tokens` tokens go to, if every choice is as likely as any other."""
        return self.num_experts * (1 - (1 - self.top_k / self.num_experts) ** tokens)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: what differs from layer to layer."""

    mlp: DenseMlp | MixtureOfExperts
    rotary: Rotary
    window: int | None = None
    """Keys that a query sees, its own included; None for all before it."""


Activation = Literal["swiglu", "geglu", "swiglu_clamped"]
CheckpointFormat = Literal["plain", "mxfp4_experts"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """Shape of a decoder-only transformer with gated MLPs and RMS norms."""

    name: str
    model_type: str
    hidden_size: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    attention: GroupedAttention | LatentAttention
    layers: tuple[Layer, ...]
    activation: Activation = "swiglu"
    norm_unit_offset: bool = False
    """Norms multiply by 1 + weight (Gemma)."""
    has_sandwich_norms: bool = False
    """What attention and MLP answer is normed before it joins the residual stream (Gemma)."""
    embedding_scale: float = 1.0
    logit_softcap: float | None = None
    checkpoint_format: CheckpointFormat = "plain"
    """How published weights are stored: `mxfp4_experts` as gpt-oss's are."""

    @property
    def num_hidden_layers(self) -> int:
        """Layers."""
        return len(self.layers)

    @property
    def head_parameters(self) -> int:
        """Weights of the output head."""
        return self.hidden_size * self.vocab_size

    @property
    def matmul_parameters(self) -> int:
        """Weights of all products, every expert's included: projections, MLPs, output head; no embedding look-up."""
        return self._always_parameters() + sum(
            count * mlp.num_experts * mlp.expert_parameters(self.hidden_size)
            for mlp, count in self._mlps().items()
            if isinstance(mlp, MixtureOfExperts)
        )

    @property
    def active_matmul_parameters(self) -> int:
        """Weights that one token is multiplied with: of the experts only its own."""
        return self._always_parameters() + sum(
            count * mlp.top_k * mlp.expert_parameters(self.hidden_size)
            for mlp, count in self._mlps().items()
            if isinstance(mlp, MixtureOfExperts)
        )

    @property
    def parameters(self) -> int:
        """All weights, a tied embedding counted once."""
        h = self.hidden_size
        norms = (4 if self.has_sandwich_norms else 2) * h
        others = norms + self.attention.other_parameters(h)
        moe = sum(
            count * mlp.other_parameters(h) for mlp, count in self._mlps().items() if isinstance(mlp, MixtureOfExperts)
        )
        embedding = 0 if self.tie_word_embeddings else self.vocab_size * h
        return self.matmul_parameters + self.num_hidden_layers * others + moe + h + embedding

    def touched_matmul_parameters(self, tokens: float) -> float:
        """Weights that a step over `tokens` tokens multiplies with: of the experts those that are expected to have
        tokens, if every choice is as likely as any other."""
        return self._always_parameters() + sum(
            count * mlp.touched(tokens) * mlp.expert_parameters(self.hidden_size)
            for mlp, count in self._mlps().items()
            if isinstance(mlp, MixtureOfExperts)
        )

    def kv_bytes_per_token(self, dtype: str) -> int:
        """KV cache of one token over all layers, in bytes; dtype: of the cache."""
        return self.num_hidden_layers * self.attention.cached_size * BYTES_PER_ELEMENT[dtype]

    def _mlps(self) -> Counter[DenseMlp | MixtureOfExperts]:
        """Each kind of MLP with the number of layers that have it."""
        return Counter(layer.mlp for layer in self.layers)

    def _always_parameters(self) -> int:
        """Weights of products that every token goes through."""
        h = self.hidden_size
        mlps = sum(
            count * (mlp.matmul_parameters(h) if isinstance(mlp, DenseMlp) else mlp.always_parameters(h))
            for mlp, count in self._mlps().items()
        )
        return self.num_hidden_layers * self.attention.matmul_parameters(h) + mlps + self.head_parameters
