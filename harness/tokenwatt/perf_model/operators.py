"""What one GPU does in one step of a model: matmuls, attention, experts, collectives, each with FLOP, bytes, messages.

A step passes `decode_tokens` (one of each running sequence, each seeing `context` keys) and `prefill_tokens` (of
prompts of `prompt` tokens) through every layer. Both are counted for one attention rank: with attention data parallel
over d ranks, d times as many meet in the experts.

Columns and rows are split as engines split them. Tensor parallel over t: query heads / t, KV heads / t but at least one
(then each GPU keeps a copy), intermediate / t, vocabulary / t; the low-rank projections of latent attention and routers
are whole on every GPU. Experts: num_experts / ep on a GPU, each with intermediate / tp columns. Of n tokens that choose
k of E experts, E (1 - (1 - k / E)^n) are expected to have one if every choice is as likely as any other.

Decoding runs latent attention absorbed (on the latents), prefill expanded. Bytes: weights and keys once, activations in
and out. Every count is a float: batches and contexts are means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from tokenwatt.architecture import DenseMlp, GroupedAttention, LatentAttention
from tokenwatt.perf_model.parallelism import Parallelism
from tokenwatt.perf_model.precision import BITS, Precision
from tokenwatt.perf_model.shape import (
    Block,
    Experts,
    LinearAttention,
    Mlp,
    ModelShape,
    PlainExperts,
    PlainMlp,
    SparseIndex,
    StateSpace,
)

Kind = Literal[
    "matmul",
    "grouped_matmul",
    "attention_decode",
    "attention_prefill",
    "latent_decode",
    "latent_prefill",
    "recurrence",
    "elementwise",
    "all_reduce",
    "all_gather",
    "all_to_all",
    "send",
]
COLLECTIVES: frozenset[Kind] = frozenset({"all_reduce", "all_gather", "all_to_all", "send"})

ACTIVATION_BYTES = 2
STATE_BYTES = 4
"""Engines keep recurrent states in float32."""
SCORE_BYTES = 4
"""And the scores of a sparse index."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one step carries, for one attention rank."""

    decode_tokens: float = 0.0
    context: float = 0.0
    """Keys that a decoding token sees, its own included."""
    prefill_tokens: float = 0.0
    prompt: float = 0.0
    """Length of the prompts that prefill_tokens are of."""

    @property
    def tokens(self) -> float:
        """Tokens that pass through the layers."""
        return self.decode_tokens + self.prefill_tokens

    @property
    def yielding(self) -> float:
        """Tokens whose logits are needed."""
        prompts = self.prefill_tokens / self.prompt if self.prompt else 0.0
        return self.decode_tokens + prompts


@dataclass(frozen=True, slots=True)
class Operator:
    """`count` equal operators of one GPU in one step."""

    name: str
    """Where it stands, as `--what-if` names it: `attention.decode`, `mlp.up`, `moe.experts`, `comm.all_reduce`."""
    kind: Kind
    dtype: str
    """Of the weights, of the cache, or of the message."""
    count: float
    flop: float = 0.0
    bytes: float = 0.0
    """To and from memory."""
    message_bytes: float = 0.0
    """What one GPU holds of a collective's input."""
    ranks: int = 1
    """GPUs of a collective."""
    rows: float = 0.0
    """Rows of a matmul, tokens of experts before routing, sequences of an attention."""
    columns: float = 0.0
    """Output columns of a matmul; gate and up together of experts."""
    depth: float = 0.0
    """Inner size of a matmul; keys of an attention."""
    groups: float = 1.0
    """Experts on this GPU that are expected to have rows."""
    routed: float = 0.0
    """Rows of all groups together."""


def step_operators(shape: ModelShape, parallelism: Parallelism, precision: Precision, load: Load) -> list[Operator]:
    """Operators of one GPU of one pipeline stage, in the order of the layers, equal ones counted.

    Layers are spread evenly over the stages, so a stage has `count / pp` of each kind; embedding and head stand on one
    stage each and are counted in full.
    """
    stage = _Step(shape, parallelism, precision, load)
    counted: dict[Operator, float] = {}
    for block, layers in shape.counted.items():
        for operator in stage.block(block):
            counted[operator] = counted.get(operator, 0.0) + operator.count * layers / parallelism.pp
    for operator in stage.ends():
        counted[operator] = counted.get(operator, 0.0) + operator.count
    return [replace(operator, count=count) for operator, count in counted.items()]


@dataclass(frozen=True, slots=True)
class _Step:
    shape: ModelShape
    parallelism: Parallelism
    precision: Precision
    load: Load

    def block(self, block: Block) -> Iterator[Operator]:
        """One layer."""
        hidden, tokens, tp = self.shape.hidden_size, self.load.tokens, self.parallelism.attention_tp
        if block.mixer is not None:
            yield self.elementwise("norm", tokens * hidden, 4)
            yield from self.mixer(block)
            yield from self.reduce(tp)
        if block.mlp is not None:
            yield self.elementwise("norm", tokens * hidden, 4)
            yield from self.mlp(block.mlp)

    def mixer(self, block: Block) -> Iterator[Operator]:
        """Attention or a recurrence, with its projections."""
        match block.mixer:
            case GroupedAttention() as attention:
                yield from self.grouped(block, attention)
            case LatentAttention() as attention:
                yield from self.latent(block, attention)
            case LinearAttention() as mixer:
                yield from self.linear(mixer)
            case StateSpace() as mixer:
                yield from self.state_space(mixer)

    def grouped(self, block: Block, attention: GroupedAttention) -> Iterator[Operator]:
        """Grouped-query attention."""
        tp, load, dtype = self.parallelism.attention_tp, self.load, self.precision.attention
        heads, width = attention.num_attention_heads / tp, attention.head_dim
        kv_heads = max(attention.num_key_value_heads / tp, 1.0)
        queries = heads * width * (2 if block.has_output_gate else 1)
        yield self.matmul("attention.qkv", load.tokens, queries + 2 * kv_heads * width, self.shape.hidden_size, dtype)
        if block.index is not None:
            yield from self.sparse_index(block.index, self.shape.hidden_size)
        yield self.elementwise("attention.rope", load.tokens * (heads + 2 * kv_heads) * width, 2)
        if load.decode_tokens:
            keys = self.seen(block, load.context)
            yield self.attend("attention_decode", load.decode_tokens, keys, 4 * heads * width, 2 * kv_heads * width)
        if load.prefill_tokens:
            yield self.prefill("attention_prefill", block, heads, 2 * width, 2 * kv_heads * width)
        yield self.matmul("attention.out", load.tokens, self.shape.hidden_size, heads * width, dtype)

    def latent(self, block: Block, attention: LatentAttention) -> Iterator[Operator]:
        """Multi-head latent attention, with a sparse index where there is one."""
        load, dtype, hidden = self.load, self.precision.attention, self.shape.hidden_size
        heads = attention.num_attention_heads / self.parallelism.attention_tp
        rank, nope = attention.kv_lora_rank, attention.qk_nope_head_dim
        low = attention.q_lora_rank
        yield self.matmul("attention.down", load.tokens, (low or 0) + attention.cached_size, hidden, dtype)
        yield self.matmul("attention.qkv", load.tokens, heads * attention.qk_head_dim, low or hidden, dtype)
        if block.index is not None:
            yield from self.sparse_index(block.index, low or hidden)
        if load.decode_tokens:
            # Queries into the latent space, and values out of it: one small product for each head.
            for inner, outer in ((nope, rank), (rank, attention.v_head_dim)):
                yield self.matmul("attention.absorb", load.decode_tokens, heads * outer, inner, "bfloat16")
            keys = self.seen(block, load.context)
            flop = 2 * heads * (attention.cached_size + rank)
            yield self.attend("latent_decode", load.decode_tokens, keys, flop, attention.cached_size)
        if load.prefill_tokens:
            expanded = heads * (nope + attention.v_head_dim)
            yield self.matmul("attention.expand", load.prefill_tokens, expanded, rank, dtype)
            widths = attention.qk_head_dim + attention.v_head_dim
            yield self.prefill("latent_prefill", block, heads, widths, heads * widths)
        yield self.matmul("attention.out", load.tokens, hidden, heads * attention.v_head_dim, dtype)

    def sparse_index(self, index: SparseIndex, queries_from: float) -> Iterator[Operator]:
        """What scores every key with a few narrow heads; whole on every GPU. queries_from: depth of their product."""
        if index.is_shared:
            return
        load, dtype, width = self.load, self.precision.attention, index.num_heads * index.head_dim
        keys = index.head_dim + index.num_heads
        yield self.matmul("index.queries", load.tokens, width, queries_from, dtype)
        yield self.matmul("index.keys", load.tokens, keys, self.shape.hidden_size, dtype)
        seen = load.decode_tokens * load.context + load.prefill_tokens * (load.prompt + 1) / 2
        cached = load.decode_tokens * load.context + load.prefill_tokens
        moved = cached * index.head_dim + seen * SCORE_BYTES
        yield Operator("index.scores", "elementwise", "fp8", 1.0, 2 * seen * width, moved, rows=load.tokens)

    def linear(self, mixer: LinearAttention) -> Iterator[Operator]:
        """Gated delta rule."""
        inputs = mixer.conv_size + mixer.value_size + 2 * mixer.num_value_heads
        yield from self.recurrent(inputs, mixer.conv_size, mixer.state_size, 6.0, mixer.value_size)

    def state_space(self, mixer: StateSpace) -> Iterator[Operator]:
        """Mamba-2."""
        inputs = mixer.conv_size + mixer.inner_size + mixer.num_heads
        state = mixer.inner_size * mixer.state_size
        yield from self.recurrent(inputs, mixer.conv_size, state, 5.0, mixer.inner_size)

    def recurrent(
        self, inputs: int, channels: int, state: int, flop_per_element: float, outputs: int
    ) -> Iterator[Operator]:
        """A recurrent mixer: its state is read and written at each decode step, and once for a prompt."""
        load, tp, hidden = self.load, self.parallelism.attention_tp, self.shape.hidden_size
        dtype = self.precision.attention
        yield self.matmul("recurrence.in", load.tokens, inputs / tp, hidden, dtype)
        yield self.elementwise("recurrence.conv", load.tokens * channels / tp, 2)
        prompts = load.prefill_tokens / load.prompt if load.prompt else 0.0
        moved = 2 * STATE_BYTES * state / tp * (load.decode_tokens + prompts)
        flop = flop_per_element * state / tp * load.tokens
        yield Operator("recurrence.state", "recurrence", "float32", 1.0, flop, moved, rows=load.tokens)
        yield self.matmul("recurrence.out", load.tokens, hidden, outputs / tp, dtype)

    def mlp(self, mlp: Mlp) -> Iterator[Operator]:
        """MLP of a layer, with what brings its answer together."""
        tp = self.parallelism.attention_tp
        match mlp:
            case DenseMlp():
                yield from self.dense("mlp", 2, mlp.intermediate_size / tp)
                yield from self.reduce(tp)
            case PlainMlp():
                yield from self.dense("mlp", 1, mlp.intermediate_size / tp)
                yield from self.reduce(tp)
            case _:
                yield from self.mixture(mlp)

    def dense(self, name: str, inputs: int, columns: float) -> Iterator[Operator]:
        """Two products with an activation between; inputs: 2 with a gate, else 1."""
        hidden, tokens, dtype = self.shape.hidden_size, self.load.tokens, self.precision.mlp
        yield self.matmul(f"{name}.up", tokens, inputs * columns, hidden, dtype)
        yield self.elementwise(f"{name}.activation", tokens * columns, 1 + inputs)
        yield self.matmul(f"{name}.down", tokens, hidden, columns, dtype)

    def mixture(self, mlp: Experts) -> Iterator[Operator]:
        """Router, shared MLP and routed experts."""
        tokens, hidden, parallel = self.load.tokens, self.shape.hidden_size, self.parallelism
        inputs, width = (1, mlp.latent_size or hidden) if isinstance(mlp, PlainExperts) else (2, hidden)
        yield self.matmul("moe.router", tokens, mlp.num_experts, hidden, "bfloat16")
        yield self.elementwise("moe.route", tokens * mlp.num_experts, 4)
        if mlp.shared_intermediate_size:
            yield from self.dense("moe.shared", inputs, mlp.shared_intermediate_size / parallel.attention_tp)
        if width != hidden:
            yield self.matmul("moe.latent", tokens, width, hidden, self.precision.mlp)
            yield self.matmul("moe.latent", tokens, hidden, width, self.precision.mlp)
        if parallel.attention_dp > 1:
            yield from self.exchange(mlp, width)
        yield self.experts(mlp, inputs, width)
        if parallel.attention_dp == 1:
            yield from self.reduce(parallel.moe_tp * parallel.moe_ep)

    def experts(self, mlp: Experts, inputs: int, width: int) -> Operator:
        """Routed experts of one GPU: tokens of all attention ranks meet here. inputs: 2 with a gate, else 1."""
        parallel, tokens = self.parallelism, self.load.tokens * self.parallelism.attention_dp
        columns = mlp.intermediate_size / parallel.moe_tp
        touched = mlp.touched(tokens) / parallel.moe_ep
        rows = tokens * mlp.top_k / parallel.moe_ep
        weights = touched * (inputs + 1) * width * columns * BITS[self.precision.experts] / 8
        activations = rows * (2 * width + (inputs + 1) * columns) * ACTIVATION_BYTES
        return Operator(
            "moe.experts",
            "grouped_matmul",
            self.precision.experts,
            1.0,
            flop=2 * (inputs + 1) * rows * width * columns,
            bytes=weights + activations,
            rows=tokens,
            columns=inputs * columns,
            depth=width,
            groups=touched,
            routed=rows,
        )

    def exchange(self, mlp: Experts, width: int) -> Iterator[Operator]:
        """Tokens to the experts of other attention ranks, and their answers back."""
        parallel, message = self.parallelism, self.load.tokens * width * ACTIVATION_BYTES
        ranks = parallel.moe_tp * parallel.moe_ep
        copies = min(mlp.top_k, parallel.moe_ep)
        for name in ("comm.dispatch", "comm.combine"):
            yield Operator(name, "all_to_all", "bfloat16", 1.0, message_bytes=message * copies, ranks=ranks)

    def ends(self) -> Iterator[Operator]:
        """Embedding, last norm and output head; between pipeline stages, what is sent on."""
        hidden, tp, dp_tokens = self.shape.hidden_size, self.parallelism.attention_tp, self.load.yielding
        yield self.elementwise("embedding", self.load.tokens * hidden, 2)
        yield self.elementwise("norm", dp_tokens * hidden, 4)
        yield self.matmul("head", dp_tokens, self.shape.vocab_size / tp, hidden, self.precision.head)
        if tp > 1:
            message = dp_tokens * self.shape.vocab_size / tp * ACTIVATION_BYTES
            yield Operator("comm.all_gather", "all_gather", "bfloat16", 1.0, message_bytes=message, ranks=tp)
        if self.parallelism.pp > 1:
            message = self.load.tokens * hidden * ACTIVATION_BYTES
            yield Operator("comm.send", "send", "bfloat16", 1.0, message_bytes=message, ranks=2)

    def reduce(self, ranks: int) -> Iterator[Operator]:
        """The partial sums of a layer's tokens brought together."""
        if ranks > 1:
            message = self.load.tokens * self.shape.hidden_size * ACTIVATION_BYTES
            yield Operator("comm.all_reduce", "all_reduce", "bfloat16", 1.0, message_bytes=message, ranks=ranks)

    def matmul(self, name: str, rows: float, columns: float, depth: float, dtype: str) -> Operator:
        """rows x depth by depth x columns."""
        moved = columns * depth * BITS[dtype] / 8 + rows * (columns + depth) * ACTIVATION_BYTES
        return Operator(
            name, "matmul", dtype, 1.0, 2 * rows * columns * depth, moved, rows=rows, columns=columns, depth=depth
        )

    def attend(self, kind: Kind, sequences: float, keys: float, flop_per_pair: float, cached: float) -> Operator:
        """Decoding: each sequence's token meets `keys` keys, of which `cached` elements are stored for each."""
        moved = sequences * keys * cached * BITS[self.precision.kv] / 8
        flop = sequences * keys * flop_per_pair
        return Operator(
            "attention.decode", kind, self.precision.kv, 1.0, flop, moved, rows=sequences, columns=cached, depth=keys
        )

    def prefill(self, kind: Kind, block: Block, heads: float, widths: float, cached: float) -> Operator:
        """Prompts attending to themselves; widths: elements of a head's key and value together."""
        load = self.load
        prompts, seen = load.prefill_tokens / load.prompt, self.seen(block, load.prompt)
        pairs = seen * (seen + 1) / 2 + (load.prompt - seen) * seen
        moved = load.prefill_tokens * (cached + heads * widths) * ACTIVATION_BYTES
        flop = 2 * prompts * pairs * heads * widths
        return Operator(
            "attention.prefill", kind, "bfloat16", 1.0, flop, moved, rows=prompts, columns=cached, depth=load.prompt
        )

    def seen(self, block: Block, context: float) -> float:
        """Keys that the last of `context` tokens sees, its own included."""
        limits = [context]
        if block.window is not None:
            limits.append(float(block.window))
        if block.index is not None:
            limits.append(float(block.index.top_k))
        return min(limits)

    def elementwise(self, name: str, elements: float, passes: int) -> Operator:
        """Something that reads or writes its elements `passes` times."""
        moved = elements * passes * ACTIVATION_BYTES
        return Operator(name, "elementwise", "bfloat16", 1.0, bytes=moved, rows=self.load.tokens)
