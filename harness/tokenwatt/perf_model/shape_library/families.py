"""Families that the predictor knows and the native engine does not run: each is a function that names its parts.

What a key means is as in transformers 5.23 (`configuration_*.py`, `modeling_*.py` of the family) and, where it has none
of it, as in vLLM 0.32 (`model_executor/models`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tokenwatt.architecture import DenseMlp, GroupedAttention
from tokenwatt.errors import UserError
from tokenwatt.model_config.families import FAMILIES
from tokenwatt.model_config.parts import dense_mlp, every_layer, experts_of, grouped_attention, split_head
from tokenwatt.model_config.values import Config
from tokenwatt.perf_model.shape import (
    Block,
    LinearAttention,
    Mlp,
    ModelShape,
    PlainExperts,
    PlainMlp,
    SparseIndex,
    StateSpace,
    shape_of_architecture,
)

# What says where a token turns or how weights are stored, and nothing of the shape.
_NO_SHAPE = ("quantization_config", "rope_scaling", "rope_parameters", "rope_theta", "partial_rotary_factor")


def native_family(model_type: str) -> Callable[[Config], ModelShape]:
    """A family of the native engine as one of the predictor."""

    def shape(config: Config) -> ModelShape:
        values = {key: value for key, value in config.values.items() if key not in _NO_SHAPE}
        return shape_of_architecture(FAMILIES[model_type](replace(config, values={**values, "model_type": model_type})))

    return shape


def _shape(config: Config, blocks: Sequence[Block]) -> ModelShape:
    return ModelShape(
        config.name,
        config.whole("hidden_size"),
        config.whole("vocab_size"),
        tuple(blocks),
        config.flag("tie_word_embeddings", False),
    )


def _listed(config: Config, key: str, count: int) -> list[Any] | None:
    """A value for each layer; None where the key is missing or null."""
    found = config.values.get(key)
    if found is not None and (not isinstance(found, list) or len(found) != count):
        raise UserError(f"{config.path}: {key} must be a list of {count}, one a layer, got {found!r}")
    return found


def _sparse_latent(config: Config) -> ModelShape:
    """DeepSeek-V3 with an index of keys. Layers that `indexer_types` calls shared take the picks of one before."""
    dense = native_family("deepseek_v3")(config)
    heads, dim, top_k = (config.whole(key) for key in ("index_n_heads", "index_head_dim", "index_topk"))
    kinds = _listed(config, "indexer_types", len(dense.blocks)) or every_layer(config, "full")
    for kind in kinds:
        if kind not in ("full", "shared"):
            raise config.refusal("indexer_types", kind, "full, shared")
    indexes = [SparseIndex(heads, dim, top_k, is_shared=kind == "shared") for kind in kinds]
    blocks = (replace(block, index=index) for block, index in zip(dense.blocks, indexes, strict=True))
    return replace(dense, blocks=tuple(blocks))


def _qwen3_next(config: Config) -> ModelShape:
    """Linear attention, and every `full_attention_interval`-th layer attention with a gate."""
    attention = replace(grouped_attention(config), has_qk_norm=True)
    linear = LinearAttention(
        num_key_heads=config.whole("linear_num_key_heads"),
        num_value_heads=config.whole("linear_num_value_heads"),
        key_head_dim=config.whole("linear_key_head_dim"),
        value_head_dim=config.whole("linear_value_head_dim"),
        conv_kernel=config.whole("linear_conv_kernel_dim"),
    )
    layers, interval = config.whole("num_hidden_layers"), config.whole("full_attention_interval", 4)
    pattern = ["linear_attention" if (layer + 1) % interval else "full_attention" for layer in range(layers)]
    mlp, blocks = _qwen3_next_mlp(config), []
    for kind in _listed(config, "layer_types", layers) or pattern:
        if kind not in ("linear_attention", "full_attention"):
            raise config.refusal("layer_types", kind, "linear_attention, full_attention")
        full = kind == "full_attention"
        blocks.append(Block(attention, mlp, has_output_gate=True) if full else Block(linear, mlp))
    return _shape(config, blocks)


def _qwen3_next_mlp(config: Config) -> Mlp:
    if "num_experts" not in config.values:
        return dense_mlp(config)
    experts = experts_of(config, "num_experts", "moe_intermediate_size")
    return replace(experts, shared_intermediate_size=config.whole("shared_expert_intermediate_size", least=0))


def _minimax_m2(config: Config) -> ModelShape:
    experts = replace(experts_of(config, "num_local_experts"), score="sigmoid", has_correction_bias=True)
    shared = config.whole("shared_intermediate_size", 0, least=0)
    attention = replace(grouped_attention(config), has_qk_norm=True)
    return _shape(config, every_layer(config, Block(attention, replace(experts, shared_intermediate_size=shared))))


def _minimax_m3(config: Config) -> ModelShape:
    """The first layers are dense in MLP and attention; the others have experts, and pick blocks of keys."""
    config.only("attention_output_gate", False)
    attention = replace(grouped_attention(config), has_qk_norm=True)
    sparse = config.inside(config.values.get("sparse_attention_config"), "sparse_attention_config")
    block_size = sparse.whole("sparse_block_size")
    index = SparseIndex(
        num_heads=sparse.whole("sparse_num_index_heads"),
        head_dim=sparse.whole("sparse_index_dim"),
        top_k=sparse.whole("sparse_topk_blocks") * block_size,
        block_size=block_size,
    )
    experts = replace(
        experts_of(config, "num_local_experts", "moe_intermediate_size"),
        score="sigmoid",
        has_correction_bias=True,
        shared_intermediate_size=config.whole("n_shared_experts", least=0) * config.whole("shared_intermediate_size"),
    )
    dense = Block(attention, DenseMlp(config.whole("dense_intermediate_size")))
    first, layers = config.whole("first_k_dense_replace", least=0), config.whole("num_hidden_layers")
    return _shape(
        config, [dense if layer < first else Block(attention, experts, index=index) for layer in range(layers)]
    )


# Layers that `no_rope_layers` of Llama 4 leaves without a rotary embedding, which are those that see all keys.
_LLAMA4_FULL_EVERY = 4


def _llama4(config: Config) -> ModelShape:
    """Attention in chunks but in every fourth layer; experts, with a shared one, in every `interleave`-th."""
    attention = grouped_attention(config, split_head(config))
    experts = experts_of(config, "num_local_experts")
    experts = replace(experts, score="sigmoid", shared_intermediate_size=experts.intermediate_size)
    dense, step = DenseMlp(config.whole("intermediate_size_mlp")), config.whole("interleave_moe_layer_step")
    chunk = config.whole("attention_chunk_size")
    return _shape(
        config,
        [
            Block(attention, dense if layer % step else experts, None if layer % _LLAMA4_FULL_EVERY == 0 else chunk)
            for layer in range(1, config.whole("num_hidden_layers") + 1)
        ],
    )


_NEMOTRON_LAYERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


def _nemotron_h(config: Config) -> ModelShape:
    """Each layer is one of Mamba-2, attention, an MLP or experts, none with a gate in the MLP."""
    kinds = _nemotron_layers(config)
    made = {kind: _NEMOTRON_BLOCKS[kind](config) for kind in sorted(set(kinds))}
    return _shape(config, [made[kind] for kind in kinds])


def _nemotron_layers(config: Config) -> list[str]:
    """Kinds of the layers, from `layers_block_type` or, a letter each, from `hybrid_override_pattern`."""
    kinds = config.values.get("layers_block_type")
    if kinds is None:
        kinds = [_NEMOTRON_LAYERS.get(letter, letter) for letter in config.values.get("hybrid_override_pattern") or ""]
    if not isinstance(kinds, list) or not kinds:
        raise UserError(f"{config.path}: needs layers_block_type or hybrid_override_pattern, got neither")
    for kind in kinds:
        if kind not in tuple(_NEMOTRON_BLOCKS):
            raise config.refusal("layer", kind, ", ".join(f"{key} ({kind})" for key, kind in _NEMOTRON_LAYERS.items()))
    return kinds


def _nemotron_mamba(config: Config) -> Block:
    return Block(
        StateSpace(
            num_heads=config.whole("mamba_num_heads"),
            head_dim=config.whole("mamba_head_dim"),
            state_size=config.whole("ssm_state_size"),
            num_groups=config.whole("n_groups"),
            conv_kernel=config.whole("conv_kernel"),
        ),
        None,
    )


def _nemotron_attention(config: Config) -> Block:
    key = "head_dim" if "head_dim" in config.values else "attention_head_dim"
    return Block(grouped_attention(config, config.whole(key)), None)


def _nemotron_mlp(config: Config) -> Block:
    return Block(None, PlainMlp(config.whole("intermediate_size")))


def _nemotron_experts(config: Config) -> Block:
    experts = experts_of(config, "n_routed_experts", "moe_intermediate_size")
    shared = config.whole("n_shared_experts", least=0) * config.whole("moe_shared_expert_intermediate_size", least=0)
    latent = None if config.values.get("moe_latent_size") is None else config.whole("moe_latent_size")
    plain = PlainExperts(experts.num_experts, experts.top_k, experts.intermediate_size, shared, latent)
    return Block(None, plain)


_NEMOTRON_BLOCKS: dict[str, Callable[[Config], Block]] = {
    "mamba": _nemotron_mamba,
    "attention": _nemotron_attention,
    "mlp": _nemotron_mlp,
    "moe": _nemotron_experts,
}


def _gptj(config: Config) -> ModelShape:
    """Multi-head attention beside an MLP without a gate; its config has names of its own."""
    hidden, heads = config.whole("n_embd"), config.whole("n_head")
    dim = hidden // heads
    mlp = PlainMlp(config.whole_or("n_inner", 4 * hidden))
    block = Block(GroupedAttention(heads, heads, dim, scale=dim**-0.5), mlp)
    blocks = (block,) * config.whole("n_layer")
    return ModelShape(config.name, hidden, config.whole("vocab_size"), blocks, has_parallel_mlp=True)


SHAPES: dict[str, Callable[[Config], ModelShape]] = {
    **{model_type: native_family(model_type) for model_type in FAMILIES},
    "qwen3_vl_text": native_family("qwen3"),
    "qwen3_vl_moe_text": native_family("qwen3_moe"),
    "kimi_k2": native_family("deepseek_v3"),
    "deepseek_v32": _sparse_latent,
    "glm_moe_dsa": _sparse_latent,
    "qwen3_next": _qwen3_next,
    "qwen3_5_text": _qwen3_next,
    "qwen3_5_moe_text": _qwen3_next,
    "minimax_m2": _minimax_m2,
    "minimax_m3": _minimax_m3,
    "llama4_text": _llama4,
    "nemotron_h": _nemotron_h,
    "gptj": _gptj,
}
