"""Shape of a model to be predicted: what each layer multiplies, attends to and keeps. No weights, no engine.

Wider than `Architecture`, which is what the native engine runs: recurrent mixers and sparse attention are here too, and
layers may differ in everything. Names are those of `config.json` where it has one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from tokenwatt.architecture import Architecture, DenseMlp, GroupedAttention, LatentAttention, MixtureOfExperts


@dataclass(frozen=True, slots=True)
class SparseIndex:
    """What picks the keys that attention then sees (DeepSeek-V3.2, arXiv 2512.02556): heads of queries on one key."""

    num_heads: int
    head_dim: int
    top_k: int
    """Keys that a query sees."""
    block_size: int = 1
    """Keys that are picked as one (MiniMax-M3)."""
    is_shared: bool = False
    """Whether the picks are those of an earlier layer, so that this one scores nothing (GLM-5.2)."""

    def matmul_parameters(self, hidden_size: int, mixer: Mixer | None) -> int:
        """Weights of the projections: beside latent attention from the latent of the queries and with a weight for
        each head, beside grouped attention from the hidden state."""
        if self.is_shared:
            return 0
        queries = self.num_heads * self.head_dim
        if not isinstance(mixer, LatentAttention):
            return hidden_size * (queries + self.head_dim)
        return queries * (mixer.q_lora_rank or hidden_size) + hidden_size * (self.head_dim + self.num_heads)


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """Gated delta rule (arXiv 2412.06464): a matrix for each value head in place of a cache that grows."""

    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int
    """Width of the causal convolution over queries, keys and values."""

    @property
    def key_size(self) -> int:
        """Width of the queries, and of the keys."""
        return self.num_key_heads * self.key_head_dim

    @property
    def value_size(self) -> int:
        """Width of the values, of their gate and of the answer."""
        return self.num_value_heads * self.value_head_dim

    @property
    def conv_size(self) -> int:
        """Channels of the convolution."""
        return 2 * self.key_size + self.value_size

    @property
    def state_size(self) -> int:
        """Elements of the state of one sequence: a matrix for each value head."""
        return self.value_size * self.key_head_dim

    def matmul_parameters(self, hidden_size: int) -> int:
        """Weights of the projections: queries, keys, values and gate, two numbers for each value head, the answer."""
        return hidden_size * (self.conv_size + 2 * self.value_size + 2 * self.num_value_heads)

    def other_parameters(self, hidden_size: int) -> int:
        """Convolution, decay and its bias for each value head, and the norm of a head."""
        del hidden_size
        return self.conv_size * self.conv_kernel + 2 * self.num_value_heads + self.value_head_dim


@dataclass(frozen=True, slots=True)
class StateSpace:
    """Mamba-2 (arXiv 2405.21060): a state of head_dim x state_size for each head in place of a cache that grows."""

    num_heads: int
    head_dim: int
    state_size: int
    num_groups: int
    """Groups of heads that share what writes to the state and what reads it."""
    conv_kernel: int

    @property
    def inner_size(self) -> int:
        """Width of what goes through the state, of its gate and of the answer."""
        return self.num_heads * self.head_dim

    @property
    def conv_size(self) -> int:
        """Channels of the convolution."""
        return self.inner_size + 2 * self.num_groups * self.state_size

    def matmul_parameters(self, hidden_size: int) -> int:
        """Weights of the projections in (with gate, and a step size for each head) and out."""
        return hidden_size * (self.conv_size + 2 * self.inner_size + self.num_heads)

    def other_parameters(self, hidden_size: int) -> int:
        """Convolution with its bias; decay, skip and bias of the step for each head; the norm of the answer."""
        del hidden_size
        return self.conv_size * (self.conv_kernel + 1) + 3 * self.num_heads + self.inner_size


@dataclass(frozen=True, slots=True)
class PlainMlp:
    """down(activation(up)): an MLP without a gate."""

    intermediate_size: int

    def matmul_parameters(self, hidden_size: int) -> int:
        """Weights of the two projections."""
        return 2 * hidden_size * self.intermediate_size


@dataclass(frozen=True, slots=True)
class PlainExperts:
    """Experts without a gate, of which a router gives each token top_k (Nemotron-3)."""

    num_experts: int
    top_k: int
    intermediate_size: int
    """Of one expert."""
    shared_intermediate_size: int = 0
    """Of the MLP, without a gate too, that every token goes through beside its experts; 0 for none."""
    latent_size: int | None = None
    """Width that the experts work in, where tokens are projected to it before them and back after; None: they work in
    the hidden size."""

    def expert_parameters(self, hidden_size: int) -> int:
        """Weights of one expert's projections."""
        return 2 * (self.latent_size or hidden_size) * self.intermediate_size

    def always_parameters(self, hidden_size: int) -> int:
        """Weights that every token is multiplied with: the router, the shared MLP, the way to the latent and back."""
        return hidden_size * (self.num_experts + 2 * self.shared_intermediate_size + 2 * (self.latent_size or 0))

    def other_parameters(self, hidden_size: int) -> int:
        """What corrects the router's choice."""
        del hidden_size
        return self.num_experts

    def touched(self, tokens: float) -> float:
        """Experts that `tokens` tokens go to, if every choice is as likely as any other."""
        return self.num_experts * (1 - (1 - self.top_k / self.num_experts) ** tokens)


Mixer = GroupedAttention | LatentAttention | LinearAttention | StateSpace
Experts = MixtureOfExperts | PlainExperts
Mlp = DenseMlp | PlainMlp | Experts


@dataclass(frozen=True, slots=True)
class Block:
    """One layer. A layer that only mixes or only has an MLP leaves the other None (Nemotron-H)."""

    mixer: Mixer | None
    mlp: Mlp | None
    window: int | None = None
    """Keys that a query sees, its own included; None for all before it. Of attention in chunks (Llama 4) the chunk,
    which is the most that a query sees."""
    index: SparseIndex | None = None
    """Of sparse attention."""
    has_output_gate: bool = False
    """Whether a projection as wide as the queries gates the answer of attention (Qwen3.5)."""

    @property
    def is_recurrent(self) -> bool:
        """Whether it keeps a state in place of a cache that grows."""
        return isinstance(self.mixer, LinearAttention | StateSpace)

    @property
    def experts(self) -> Experts | None:
        """Its experts; None if it has none."""
        return self.mlp if isinstance(self.mlp, MixtureOfExperts | PlainExperts) else None

    def mixer_parameters(self, hidden_size: int) -> int:
        """Weights of the mixer's products, of its gate and of its index."""
        if self.mixer is None:
            return 0
        gate = self.mixer.q_size if self.has_output_gate and isinstance(self.mixer, GroupedAttention) else 0
        index = self.index.matmul_parameters(hidden_size, self.mixer) if self.index else 0
        return self.mixer.matmul_parameters(hidden_size) + hidden_size * gate + index

    def always_parameters(self, hidden_size: int) -> int:
        """Weights of products that every token goes through: all but the experts."""
        mixer = self.mixer_parameters(hidden_size)
        if isinstance(self.mlp, DenseMlp | PlainMlp):
            return mixer + self.mlp.matmul_parameters(hidden_size)
        return mixer + (self.mlp.always_parameters(hidden_size) if self.mlp else 0)

    def expert_parameters(self, hidden_size: int) -> int:
        """Weights of one expert's products; 0 without experts."""
        return self.experts.expert_parameters(hidden_size) if self.experts else 0

    def other_parameters(self, hidden_size: int) -> int:
        """Weights of no product, without the norms between the parts."""
        parts = [part for part in (self.mixer, self.experts) if part is not None]
        return sum(part.other_parameters(hidden_size) for part in parts)


@dataclass(frozen=True)  # No slots: what is counted once is kept.
class ModelShape:
    """A decoder-only transformer, layer by layer."""

    name: str
    hidden_size: int
    vocab_size: int
    blocks: tuple[Block, ...]
    tie_word_embeddings: bool = False
    has_sandwich_norms: bool = False
    """Whether what mixer and MLP answer is normed before it joins the residual stream (Gemma)."""
    has_parallel_mlp: bool = False
    """Whether the MLP reads what the mixer reads, so that both join the residual stream at once (GPT-J)."""

    @cached_property
    def counted(self) -> Counter[Block]:
        """Each kind of layer with how many the model has of it."""
        return Counter(self.blocks)

    @property
    def has_experts(self) -> bool:
        """Whether it is a mixture of experts."""
        return any(block.experts for block in self.counted)

    @property
    def head_parameters(self) -> int:
        """Weights of the output head."""
        return self.hidden_size * self.vocab_size

    @property
    def matmul_parameters(self) -> int:
        """Weights of all products, every expert's included: projections, MLPs, output head; no embedding look-up."""
        return self._products(lambda experts: experts.num_experts)

    @property
    def active_matmul_parameters(self) -> int:
        """Weights that one token is multiplied with: of the experts only its own."""
        return self._products(lambda experts: experts.top_k)

    @property
    def parameters(self) -> int:
        """All weights, a tied embedding counted once. Of a model that also sees or drafts, the language model alone."""
        return self.matmul_parameters + self._others()

    @property
    def active_parameters(self) -> int:
        """All weights without the experts that a token does not go to: what model cards call active."""
        return self.active_matmul_parameters + self._others()

    def _products(self, experts_counted: Callable[[Experts], int]) -> int:
        h = self.hidden_size
        layers = sum(
            count * (block.always_parameters(h) + _experts_of(block, experts_counted) * block.expert_parameters(h))
            for block, count in self.counted.items()
        )
        return layers + self.head_parameters

    def _others(self) -> int:
        """Embedding, norms and all else that is no product."""
        layers = sum(
            count * (block.other_parameters(self.hidden_size) + self._norms(block) * self.hidden_size)
            for block, count in self.counted.items()
        )
        embedding = 0 if self.tie_word_embeddings else self.head_parameters
        return embedding + layers + self.hidden_size

    def _norms(self, block: Block) -> int:
        """Norms of a layer between its parts."""
        parts = (block.mixer is not None) + (block.mlp is not None)
        return 1 if self.has_parallel_mlp else parts * (1 + self.has_sandwich_norms)


def _experts_of(block: Block, counted: Callable[[Experts], int]) -> int:
    return counted(block.experts) if block.experts else 0


def shape_of_architecture(architecture: Architecture) -> ModelShape:
    """The same model as the predictor sees it."""
    return ModelShape(
        architecture.name,
        architecture.hidden_size,
        architecture.vocab_size,
        tuple(Block(architecture.attention, layer.mlp, layer.window) for layer in architecture.layers),
        architecture.tie_word_embeddings,
        architecture.has_sandwich_norms,
    )
