"""How much memory a decoder takes: weights, activations of a step, cache; arithmetic, before anything is loaded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tokenwatt.architecture import (
    BYTES_PER_ELEMENT,
    Architecture,
    DenseMlp,
    GroupedAttention,
    LatentAttention,
    MixtureOfExperts,
)
from tokenwatt_kernels.matmul.packed.formats import CHUNK, chunks

FLOAT32_BYTES = 4
CHUNK_BYTES = CHUNK // 2 + 4
"""Of 4-bit numbers with the int32 of their scales, as `matmul.packed.weights` arranges them."""
SAMPLING_BYTES = 50
"""Of a logit, where tokens are sampled from the whole vocabulary with top-p and a penalty: what `sample` was seen to
hold at once beside the logits. Greedy sampling holds next to nothing."""
GB = 1e9


@dataclass(frozen=True, slots=True)
class Need:
    """What must fit, in bytes."""

    weights: int
    activations: int
    request_cache: int
    """KV cache of the longest request."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.activations + self.request_cache

    def __str__(self) -> str:
        return (
            f"weights {self.weights / GB:.2f} GB + activations {self.activations / GB:.2f} GB"
            f" + KV cache of one request {self.request_cache / GB:.2f} GB = {self.total / GB:.2f} GB"
        )


@dataclass(frozen=True, slots=True)
class QuantisedWeight:
    """`count` weights [rows, terms] that a quantisation applies to."""

    name: str
    count: int
    rows: int
    """Output channels."""
    terms: int
    """Width of what they are multiplied by."""
    is_expert: bool = False

    @property
    def parameters(self) -> int:
        """Numbers in all of them."""
        return self.count * self.rows * self.terms

    def bytes(self, number_format: str, size: int) -> int:
        """Memory of all of them; number_format: none (then a number has `size` bytes), fp8, int4 or mxfp4."""
        if number_format == "none":
            return self.parameters * size
        if number_format == "fp8":
            return self.parameters + self.count * self.rows * FLOAT32_BYTES
        return self.count * self.rows * chunks(self.terms) * CHUNK_BYTES


def weight_bytes(architecture: Architecture, dtype: str, quantization: str) -> int:
    """Memory of all weights; quantization: none, fp8 or int4, of projections and MLPs."""
    size = BYTES_PER_ELEMENT[dtype]
    expert_format = "mxfp4" if architecture.checkpoint_format == "mxfp4_experts" else quantization
    weights = quantised_weights(architecture)
    quantised = sum(weight.bytes(expert_format if weight.is_expert else quantization, size) for weight in weights)
    others = architecture.parameters - sum(weight.parameters for weight in weights)
    return quantised + others * size + _float32_parameters(architecture) * (FLOAT32_BYTES - size)


def quantised_weights(architecture: Architecture) -> list[QuantisedWeight]:
    """What a quantisation applies to: projections and MLPs, no embedding, head or router."""
    h, attention, layers = architecture.hidden_size, architecture.attention, architecture.num_hidden_layers
    if isinstance(attention, GroupedAttention):
        weights = [
            QuantisedWeight("qkv_proj", layers, attention.q_size + 2 * attention.kv_size, h),
            QuantisedWeight("o_proj", layers, h, attention.q_size),
        ]
    else:
        weights = _latent_weights(attention, layers, h)
    for mlp, count in Counter(layer.mlp for layer in architecture.layers).items():
        if isinstance(mlp, MixtureOfExperts):
            weights += _mlp_weights("experts", count * mlp.num_experts, h, mlp.intermediate_size, is_expert=True)
            if mlp.shared_intermediate_size:
                weights += _mlp_weights("shared_experts", count, h, mlp.shared_intermediate_size)
        else:
            weights += _mlp_weights("mlp", count, h, mlp.intermediate_size)
    return weights


def _latent_weights(attention: LatentAttention, layers: int, h: int) -> list[QuantisedWeight]:
    """Without the up-projection of latents, which is kept as it is, since decoding multiplies it by queries."""
    heads, rank = attention.num_attention_heads, attention.q_lora_rank
    q_size = heads * attention.qk_head_dim
    if rank is None:
        queries = [QuantisedWeight("q_proj", layers, q_size, h)]
    else:
        queries = [QuantisedWeight("q_a_proj", layers, rank, h), QuantisedWeight("q_b_proj", layers, q_size, rank)]
    return [
        *queries,
        QuantisedWeight("kv_a_proj_with_mqa", layers, attention.cached_size, h),
        QuantisedWeight("o_proj", layers, h, heads * attention.v_head_dim),
    ]


def _mlp_weights(name: str, count: int, h: int, intermediate: int, *, is_expert: bool = False) -> list[QuantisedWeight]:
    return [
        QuantisedWeight(f"{name}.gate_up_proj", count, 2 * intermediate, h, is_expert),
        QuantisedWeight(f"{name}.down_proj", count, h, intermediate, is_expert),
    ]


def _float32_parameters(architecture: Architecture) -> int:
    """What is fp32 whatever the dtype: sinks, and, where scores are sigmoids, the router and its correction."""
    attention = architecture.attention
    total = 0
    if isinstance(attention, GroupedAttention) and attention.has_sinks:
        total += architecture.num_hidden_layers * attention.num_attention_heads
    for layer in architecture.layers:
        if isinstance(layer.mlp, MixtureOfExperts) and layer.mlp.score == "sigmoid":
            router = architecture.hidden_size + layer.mlp.has_correction_bias
            total += layer.mlp.num_experts * router
    return total


def activation_bytes(architecture: Architecture, dtype: str, tokens: int, sequences: int, longest_context: int) -> int:
    """Memory that a step may need at once: every intermediate of its largest layer, none freed early, and the logits.

    tokens: of the step. sequences: those that get an output token. longest_context: tokens, which latent attention
    expands to keys and values.
    """
    size = BYTES_PER_ELEMENT[dtype]
    attention = architecture.attention
    if isinstance(attention, GroupedAttention):
        elements = 3 * (attention.q_size + 2 * attention.kv_size)
    else:
        elements = 4 * attention.num_attention_heads * attention.qk_head_dim
    widest = max(_mlp_elements(mlp, architecture.hidden_size) for mlp in {layer.mlp for layer in architecture.layers})
    per_token = 6 * architecture.hidden_size + elements + widest
    logits = sequences * architecture.vocab_size * (2 * size + SAMPLING_BYTES)
    return tokens * per_token * size + logits + _expanded_bytes(architecture, size, tokens + longest_context)


def _mlp_elements(mlp: DenseMlp | MixtureOfExperts, hidden_size: int) -> int:
    """Of a token; that of experts has a row for each of them, before they are added up."""
    if isinstance(mlp, MixtureOfExperts):
        return mlp.top_k * (2 * mlp.intermediate_size + hidden_size) + 3 * mlp.shared_intermediate_size
    return 3 * mlp.intermediate_size


def _expanded_bytes(architecture: Architecture, size: int, tokens: int) -> int:
    attention = architecture.attention
    if isinstance(attention, GroupedAttention):
        return 0
    heads = attention.num_attention_heads
    return tokens * size * heads * (attention.qk_nope_head_dim + attention.v_head_dim + attention.qk_head_dim)
