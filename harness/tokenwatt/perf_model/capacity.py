"""What fits into a GPU: its share of the weights, and how many sequences beside them.

    largest batch = (memory x share that engines use - weights - workspace) / (bytes of a sequence)

and where that leaves little, LEAST_CACHE of the memory, or what is left of MOST_USABLE.

A sequence keeps its keys and values (of a window no more than the window) and the states of recurrent mixers. Both are
counted on one GPU: KV heads / tp but at least one, a latent whole on every GPU of its tensor parallel group.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenwatt.architecture import GroupedAttention, LatentAttention
from tokenwatt.errors import UserError
from tokenwatt.perf_model.operations import STATE_BYTES
from tokenwatt.perf_model.parallelism import Parallelism
from tokenwatt.perf_model.precision import Precision, weight_bytes_of
from tokenwatt.perf_model.shape import Block, LinearAttention, ModelShape, StateSpace

USABLE = 0.92
"""Share of a GPU's memory that servers give to weights and cache (vLLM's gpu_memory_utilization, 0.9 to 0.95)."""
MOST_USABLE = 0.98
"""Of one that is told to use all of it."""
LEAST_CACHE = 0.06
"""Share of the memory that a server which starts at all makes room for its cache in, where there is as much."""
WORKSPACE_BYTES = 2e9
"""Activations, graphs and communication buffers, in addition."""
GIGA = 1e9


@dataclass(frozen=True, slots=True)
class Capacity:
    """Memory of one GPU of an instance, byte."""

    memory_bytes: float
    weight_bytes: float
    sequence_bytes: float
    """Of one sequence at the mean context."""

    @property
    def cache_bytes(self) -> float:
        """Room for sequences beside the weights."""
        usual = self.memory_bytes * USABLE - self.weight_bytes - WORKSPACE_BYTES
        return max(usual, min(self.memory_bytes * LEAST_CACHE, self.memory_bytes * MOST_USABLE - self.weight_bytes))

    @property
    def largest_batch(self) -> float:
        """Sequences that fit beside the weights, for one attention rank."""
        return self.cache_bytes / self.sequence_bytes

    def check(self, gpu: str) -> None:
        """Whether one sequence fits.

        Raises:
            UserError: the arithmetic of what does not.
        """
        has = f"{gpu} has {self.memory_bytes / GIGA:.0f} GB"
        weights = f"{self.weight_bytes / GIGA:.0f} GB of weights"
        if self.weight_bytes > self.memory_bytes * MOST_USABLE:
            raise UserError(f"does not fit: {weights} on each GPU, {has}")
        if self.largest_batch < 1:
            cache = f"{self.sequence_bytes / GIGA:.0f} GB of cache of one sequence"
            raise UserError(f"does not fit: {weights} and {cache} on each GPU, {has}, {MOST_USABLE:.0%} of it usable")


def capacity_of(
    shape: ModelShape, parallelism: Parallelism, precision: Precision, context: float, memory_bytes: float
) -> Capacity:
    """What a GPU of `memory_bytes` holds of the model, and what a sequence of `context` tokens takes there."""
    sequence = sum(count * _sequence_bytes(block, parallelism, precision, context) for block, count in _stage(shape))
    return Capacity(memory_bytes, weight_bytes(shape, parallelism, precision), sequence / parallelism.pp)


def weight_bytes(shape: ModelShape, parallelism: Parallelism, precision: Precision) -> float:
    """Stored weights of one GPU, byte; norms and biases, which are thousandths, are left out."""
    tp, hidden = parallelism.attention_tp, shape.hidden_size
    embeddings = shape.head_parameters * (1 if shape.tie_word_embeddings else 2) * weight_bytes_of(precision.head) / tp
    layers = 0.0
    for block, count in _stage(shape):
        mixer = block.mixer_parameters(hidden) * weight_bytes_of(precision.attention) / tp
        if block.experts is None:
            rest = (
                (block.always_parameters(hidden) - block.mixer_parameters(hidden)) * weight_bytes_of(precision.mlp) / tp
            )
        else:
            always = block.always_parameters(hidden) - block.mixer_parameters(hidden)
            stored = block.experts.num_experts * block.expert_parameters(hidden) * weight_bytes_of(precision.experts)
            rest = always * weight_bytes_of(precision.mlp) / tp + stored / (parallelism.moe_tp * parallelism.moe_ep)
        layers += count * (mixer + rest)
    return embeddings + layers / parallelism.pp


def _stage(shape: ModelShape) -> list[tuple[Block, int]]:
    return list(shape.counted.items())


def _sequence_bytes(block: Block, parallelism: Parallelism, precision: Precision, context: float) -> float:
    """What one layer keeps of a sequence on one GPU, byte."""
    tp, kv = parallelism.attention_tp, weight_bytes_of(precision.kv)
    match block.mixer:
        case GroupedAttention() as attention:
            kept = context if block.window is None else min(context, block.window)
            heads = max(attention.num_key_value_heads / tp, 1.0)
            return kept * 2 * heads * attention.head_dim * kv
        case LatentAttention() as attention:
            index = block.index.head_dim if block.index is not None and not block.index.is_shared else 0
            return context * (attention.cached_size * kv + index)
        case LinearAttention() as mixer:
            return mixer.state_size / tp * STATE_BYTES
        case StateSpace() as mixer:
            return mixer.inner_size * mixer.state_size / tp * STATE_BYTES
        case _:
            return 0.0
