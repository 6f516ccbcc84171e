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
from dataclasses import dataclass

from tokenwatt.architecture import DenseMlp, GroupedAttention, LatentAttention
from tokenwatt.perf_model.operations import (
    ACTIVATION_BYTES,
    SCORE_BYTES,
    STATE_BYTES,
    Kind,
    Load,
    Operation,
    Sizes,
)
from tokenwatt.perf_model.parallelism import Parallelism
from tokenwatt.perf_model.precision import Precision, weight_bytes_of
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


def step_operations(shape: ModelShape, parallelism: Parallelism, precision: Precision, load: Load) -> list[Operation]:
    """Operations of one GPU of one pipeline stage, in the order of the layers, equal ones counted.

    Layers are spread evenly over the stages, so a stage has `count / pp` of each kind; embedding and head stand on one
    stage each and are counted in full.
    """
    stage = _Step(shape, parallelism, precision, load)
    counted: dict[Operation, float] = {}
    for block, layers in shape.counted.items():
        for operation in stage.block(block):
            counted[operation] = counted.get(operation, 0.0) + operation.count * layers / parallelism.pp
    for operation in stage.ends():
        counted[operation] = counted.get(operation, 0.0) + operation.count
    return [operation.times(count) for operation, count in counted.items()]


@dataclass(frozen=True, slots=True)
class _Step:
    shape: ModelShape
    parallelism: Parallelism
    precision: Precision
    load: Load

    def block(self, block: Block) -> Iterator[Operation]:
        """One layer."""
        hidden, tokens, tp = self.shape.hidden_size, self.load.tokens, self.parallelism.attention_tp
        if block.mixer is not None:
            yield self.elementwise("norm", tokens * hidden, 4)
            yield from self.mixer(block)
            yield from self.reduce(tp)
        if block.mlp is not None:
            yield self.elementwise("norm", tokens * hidden, 4)
            yield from self.mlp(block.mlp)

    def mixer(self, block: Block) -> Iterator[Operation]:
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

    def grouped(self, block: Block, attention: GroupedAttention) -> Iterator[Operation]:
        """Grouped-query attention."""
        tp, load, hidden = self.parallelism.attention_tp, self.load, self.shape.hidden_size
        heads, width = attention.num_attention_heads / tp, attention.head_dim
        kv_heads = max(attention.num_key_value_heads / tp, 1.0)
        queries = heads * width * (2 if block.has_output_gate else 1)
        yield self.matmul(
            "attention.qkv", load.tokens, queries + 2 * kv_heads * width, hidden, self.precision.attention
        )
        if block.index is not None:
            yield from self.sparse_index(block.index, hidden)
        yield self.elementwise("attention.rope", load.tokens * (heads + 2 * kv_heads) * width, 2)
        sizes = (("heads", heads), ("kv_heads", kv_heads), ("head_dim", float(width)))
        if load.decode_tokens:
            cached, answered = 2 * kv_heads * width, 2 * heads * width
            yield self.decode("attention.decode", block, 4 * heads * width, cached, answered, sizes)
        if load.prefill_tokens:
            yield self.prefill("attention.prefill", block, heads, 2 * width, 2 * kv_heads * width, sizes)
        yield self.matmul("attention.out", load.tokens, hidden, heads * width, self.precision.attention)

    def latent(self, block: Block, attention: LatentAttention) -> Iterator[Operation]:
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
                yield self.matmul("attention.absorb", load.decode_tokens, heads * outer, inner, "bf16")
            flop = 2 * heads * (attention.cached_size + rank)
            answered = heads * (attention.cached_size + rank)
            sizes = (("heads", heads), ("latent_dim", float(rank)), ("rotary_dim", float(attention.qk_rope_head_dim)))
            yield self.decode("latent.decode", block, flop, attention.cached_size, answered, sizes)
        if load.prefill_tokens:
            expanded = heads * (nope + attention.v_head_dim)
            yield self.matmul("attention.expand", load.prefill_tokens, expanded, rank, dtype)
            key, value = attention.qk_head_dim, attention.v_head_dim
            sizes = (("heads", heads), ("qk_head_dim", float(key)), ("v_head_dim", float(value)))
            yield self.prefill("latent.prefill", block, heads, key + value, heads * (key + value), sizes)
        yield self.matmul("attention.out", load.tokens, hidden, heads * attention.v_head_dim, dtype)

    def sparse_index(self, index: SparseIndex, queries_from: float) -> Iterator[Operation]:
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
        yield Operation("index.scores", "elementwise", "fp8", 1.0, 2 * seen * width, moved)

    def linear(self, mixer: LinearAttention) -> Iterator[Operation]:
        """Gated delta rule."""
        tp = self.parallelism.attention_tp
        sizes = (
            ("key_heads", mixer.num_key_heads / tp),
            ("value_heads", mixer.num_value_heads / tp),
            ("key_dim", float(mixer.key_head_dim)),
            ("value_dim", float(mixer.value_head_dim)),
        )
        inputs = mixer.conv_size + mixer.value_size + 2 * mixer.num_value_heads
        yield from self.recurrent(inputs, mixer.conv_size, mixer.state_size, 6.0, mixer.value_size, sizes)

    def state_space(self, mixer: StateSpace) -> Iterator[Operation]:
        """Mamba-2, whose state has the shape of a gated delta rule's: a key for each group, a value for each head."""
        tp = self.parallelism.attention_tp
        sizes = (
            ("key_heads", mixer.num_groups / tp),
            ("value_heads", mixer.num_heads / tp),
            ("key_dim", float(mixer.state_size)),
            ("value_dim", float(mixer.head_dim)),
        )
        inputs, state = mixer.conv_size + mixer.inner_size + mixer.num_heads, mixer.inner_size * mixer.state_size
        yield from self.recurrent(inputs, mixer.conv_size, state, 5.0, mixer.inner_size, sizes)

    def recurrent(
        self, inputs: int, channels: int, state: int, flop_per_element: float, outputs: int, sizes: Sizes
    ) -> Iterator[Operation]:
        """A recurrent mixer: its state is read and written at each decode step, and once for a prompt."""
        load, tp, hidden = self.load, self.parallelism.attention_tp, self.shape.hidden_size
        dtype = self.precision.attention
        yield self.matmul("recurrence.in", load.tokens, inputs / tp, hidden, dtype)
        if load.decode_tokens:
            yield self.state(
                "recurrence.decode", load.decode_tokens, 1.0, state / tp, flop_per_element, channels, sizes
            )
        if load.prefill_tokens:
            prompts = load.prefill_tokens / load.prompt
            yield self.state("recurrence.prefill", prompts, load.prompt, state / tp, flop_per_element, channels, sizes)
        yield self.matmul("recurrence.out", load.tokens, hidden, outputs / tp, dtype)

    def state(
        self,
        kind: Kind,
        batch: float,
        tokens: float,
        state: float,
        flop_per_element: float,
        channels: int,
        sizes: Sizes,
    ) -> Operation:
        """Convolution and update of the states of `batch` sequences by `tokens` tokens each."""
        through = 2 * batch * tokens * channels / self.parallelism.attention_tp * ACTIVATION_BYTES
        shape = (("batch", batch), *((("tokens", tokens),) if kind == "recurrence.prefill" else ()), *sizes)
        flop = flop_per_element * state * batch * tokens
        return Operation(kind, kind, "float32", 1.0, flop, 2 * STATE_BYTES * state * batch + through, shape=shape)

    def mlp(self, mlp: Mlp) -> Iterator[Operation]:
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

    def dense(self, name: str, inputs: int, columns: float) -> Iterator[Operation]:
        """Two products with an activation between; inputs: 2 with a gate, else 1."""
        hidden, tokens, dtype = self.shape.hidden_size, self.load.tokens, self.precision.mlp
        yield self.matmul(f"{name}.up", tokens, inputs * columns, hidden, dtype)
        yield self.elementwise(f"{name}.activation", tokens * columns, 1 + inputs)
        yield self.matmul(f"{name}.down", tokens, hidden, columns, dtype)

    def mixture(self, mlp: Experts) -> Iterator[Operation]:
        """Router, shared MLP and routed experts."""
        tokens, hidden, parallel = self.load.tokens, self.shape.hidden_size, self.parallelism
        inputs, width = (1, mlp.latent_size or hidden) if isinstance(mlp, PlainExperts) else (2, hidden)
        yield self.matmul("moe.router", tokens, mlp.num_experts, hidden, "bf16")
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

    def experts(self, mlp: Experts, inputs: int, width: int) -> Operation:
        """Routed experts of one GPU: tokens of all attention ranks meet here. inputs: 2 with a gate, else 1."""
        parallel, tokens = self.parallelism, self.load.tokens * self.parallelism.attention_dp
        columns = mlp.intermediate_size / parallel.moe_tp
        touched = mlp.touched(tokens) / parallel.moe_ep
        rows = tokens * mlp.top_k / parallel.moe_ep
        weights = touched * (inputs + 1) * width * columns * weight_bytes_of(self.precision.experts)
        activations = rows * (2 * width + (inputs + 1) * columns) * ACTIVATION_BYTES
        shape = (
            ("tokens", tokens),
            ("hidden", float(width)),
            # Tables know experts with a gate; one without has two thirds of the weights of one as wide.
            ("intermediate", columns * (inputs + 1) / 3),
            ("top_k", float(mlp.top_k)),
            ("experts", float(mlp.num_experts)),
            ("ep", float(parallel.moe_ep)),
        )
        flop = 2 * (inputs + 1) * rows * width * columns
        dtype = self.precision.experts
        return Operation("moe.experts", "grouped_matmul", dtype, 1.0, flop, weights + activations, shape=shape)

    def exchange(self, mlp: Experts, width: int) -> Iterator[Operation]:
        """Tokens to the experts of other attention ranks, and their answers back: to every rank that shares one."""
        parallel, message = self.parallelism, self.load.tokens * width * ACTIVATION_BYTES
        ranks = parallel.moe_tp * parallel.moe_ep
        copies = min(mlp.top_k, parallel.moe_ep) * parallel.moe_tp
        for name in ("comm.dispatch", "comm.combine"):
            yield Operation(name, "all_to_all", "bf16", 1.0, bytes=message * copies, ranks=ranks)

    def ends(self) -> Iterator[Operation]:
        """Embedding, last norm and output head; between pipeline stages, what is sent on."""
        hidden, tp, dp_tokens = self.shape.hidden_size, self.parallelism.attention_tp, self.load.yielding
        yield self.elementwise("embedding", self.load.tokens * hidden, 2)
        yield self.elementwise("norm", dp_tokens * hidden, 4)
        yield self.matmul("head", dp_tokens, self.shape.vocab_size / tp, hidden, self.precision.head)
        if tp > 1:
            message = dp_tokens * self.shape.vocab_size / tp * ACTIVATION_BYTES
            yield Operation("comm.all_gather", "all_gather", "bf16", 1.0, bytes=message, ranks=tp)
        if self.parallelism.pp > 1:
            message = self.load.tokens * hidden * ACTIVATION_BYTES
            yield Operation("comm.send", "send", "bf16", 1.0, bytes=message, ranks=2)

    def reduce(self, ranks: int) -> Iterator[Operation]:
        """The partial sums of a layer's tokens brought together."""
        if ranks > 1:
            message = self.load.tokens * self.shape.hidden_size * ACTIVATION_BYTES
            yield Operation("comm.all_reduce", "all_reduce", "bf16", 1.0, bytes=message, ranks=ranks)

    def matmul(self, name: str, rows: float, columns: float, depth: float, dtype: str) -> Operation:
        """rows x depth by depth x columns."""
        moved = columns * depth * weight_bytes_of(dtype) + rows * (columns + depth) * ACTIVATION_BYTES
        shape = (("m", rows), ("n", columns), ("k", float(depth)))
        return Operation(name, "matmul", dtype, 1.0, 2 * rows * columns * depth, moved, shape=shape)

    def decode(
        self, kind: Kind, block: Block, flop_per_key: float, cached: float, answered: float, sizes: Sizes
    ) -> Operation:
        """Each sequence's token meets the keys that it sees, of which `cached` elements are stored for each token;
        `answered` elements of queries and answers belong to it."""
        tokens, keys = self.load.decode_tokens, self.seen(block, self.load.context)
        sequences = tokens / self.load.queries
        moved = sequences * keys * cached * weight_bytes_of(self.precision.kv) + tokens * answered * ACTIVATION_BYTES
        shape = (("batch", sequences), ("context", keys), ("queries", self.load.queries), *sizes)
        return Operation(
            "attention.decode", kind, self.precision.kv, 1.0, tokens * keys * flop_per_key, moved, shape=shape
        )

    def prefill(self, kind: Kind, block: Block, heads: float, widths: float, cached: float, sizes: Sizes) -> Operation:
        """Prompts attending to themselves; widths: elements of a head's key and value together."""
        load = self.load
        prompts, seen = load.prefill_tokens / load.prompt, self.seen(block, load.prompt)
        pairs = seen * (seen + 1) / 2 + (load.prompt - seen) * seen
        moved = load.prefill_tokens * (cached + heads * widths) * ACTIVATION_BYTES
        window = ("window", seen if seen < load.prompt else 0.0)
        shape = (("batch", prompts), ("tokens", load.prompt), ("prefix", 0.0), window, *sizes)
        flop = 2 * prompts * pairs * heads * widths
        return Operation("attention.prefill", kind, "bf16", 1.0, flop, moved, shape=shape)

    def seen(self, block: Block, context: float) -> float:
        """Keys that the last of `context` tokens sees, its own included."""
        limits = [context]
        if block.window is not None:
            limits.append(float(block.window))
        if block.index is not None:
            limits.append(float(block.index.top_k))
        return min(limits)

    def elementwise(self, name: str, elements: float, passes: int) -> Operation:
        """Something that reads or writes its elements `passes` times."""
        moved = elements * passes * ACTIVATION_BYTES
        return Operation(name, "elementwise", "bf16", 1.0, bytes=moved)
