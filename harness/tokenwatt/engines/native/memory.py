"""How much memory a decoder takes: weights, activations of a step, cache. Arithmetic alone, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwatt.architecture import BYTES_PER_ELEMENT, Architecture, GroupedAttention, LatentAttention, MixtureOfExperts

FLOAT32_BYTES = 4
NUMBER_BYTES = {"fp8": 1.0, "int4": 0.5 + FLOAT32_BYTES / 128, "mxfp4": 0.5 + FLOAT32_BYTES / 128}
"""Bytes of a number in a quantised weight; 4 bits have an int32 of scales for every 128. An fp8 weight has one scale
for each output channel, which is little beside thousands of numbers."""
GB = 1e9


@dataclass(frozen=True, slots=True)
class Need:
    """What must fit, in bytes."""

    weights: float
    activations: float
    request_cache: float
    """KV cache of the longest request."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.activations + self.request_cache

    def __str__(self) -> str:
        return (
            f"weights {self.weights / GB:.2f} GB + activations {self.activations / GB:.2f} GB"
            f" + KV cache of one request {self.request_cache / GB:.2f} GB = {self.total / GB:.2f} GB"
        )


def weight_bytes(architecture: Architecture, dtype: str, quantisation: str) -> float:
    """Memory of all weights; quantisation: none, fp8 or int4, of projections and MLPs."""
    size = BYTES_PER_ELEMENT[dtype]
    quantised_size = NUMBER_BYTES.get(quantisation, size)
    expert_size = NUMBER_BYTES["mxfp4"] if architecture.checkpoint_format == "mxfp4_experts" else quantised_size
    quantised, experts = _quantised_parameters(architecture), _expert_parameters(architecture)
    others = architecture.parameters - quantised - experts
    return others * size + quantised * quantised_size + experts * expert_size


def _expert_parameters(architecture: Architecture) -> int:
    mlps = (layer.mlp for layer in architecture.layers)
    return sum(
        mlp.num_experts * mlp.expert_parameters(architecture.hidden_size)
        for mlp in mlps
        if isinstance(mlp, MixtureOfExperts)
    )


def _quantised_parameters(architecture: Architecture) -> int:
    """Weights outside experts that a quantisation applies to."""
    h, attention = architecture.hidden_size, architecture.attention
    projections = attention.matmul_parameters(h)
    if isinstance(attention, LatentAttention):  # the up-projection is kept, since decoding multiplies it by queries
        expanded = attention.qk_nope_head_dim + attention.v_head_dim
        projections -= attention.kv_lora_rank * attention.num_attention_heads * expanded
    total = architecture.num_hidden_layers * projections
    for layer in architecture.layers:
        mlp = layer.mlp
        total += 3 * h * mlp.shared_intermediate_size if isinstance(mlp, MixtureOfExperts) else mlp.matmul_parameters(h)
    return total


def activation_bytes(
    architecture: Architecture, dtype: str, tokens: int, sequences: int, longest_context: int
) -> float:
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
    per_token = 6 * architecture.hidden_size + elements + max(map(_mlp_elements, {l.mlp for l in architecture.layers}))
    logits = sequences * architecture.vocab_size * (size + 2 * FLOAT32_BYTES)
    return tokens * per_token * size + logits + _expanded_bytes(architecture, size, tokens + longest_context)


def _mlp_elements(mlp: object) -> int:
    if isinstance(mlp, MixtureOfExperts):
        return 2 * mlp.top_k * mlp.intermediate_size + 3 * mlp.shared_intermediate_size
    return 3 * getattr(mlp, "intermediate_size", 0)


def _expanded_bytes(architecture: Architecture, size: int, tokens: int) -> int:
    attention = architecture.attention
    if isinstance(attention, GroupedAttention):
        return 0
    heads = attention.num_attention_heads
    return tokens * size * heads * (attention.qk_nope_head_dim + attention.v_head_dim + attention.qk_head_dim)
