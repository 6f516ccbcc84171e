"""Families of models: each is a function that names its parts.

What a key means, and what a missing key that is no shape defaults to, is as in transformers 5.23 (`configuration_*.py`,
`modeling_*.py` of the family, `modeling_rope_utils.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tokenwatt.architecture import Architecture, LatentAttention, Layer, MixtureOfExperts, Rotary
from tokenwatt.errors import UserError
from tokenwatt.model_config.parts import (
    FULL,
    SLIDING,
    Mlp,
    assembled,
    dense_mlp,
    every_layer,
    experts_of,
    grouped_attention,
    layer_types_of,
    layers_of,
    plain_layers,
    split_head,
    window_of,
    windows_of,
    with_biases,
)
from tokenwatt.model_config.rotary import ORIGINAL, rope_settings, rotary_of, yarn_temperature
from tokenwatt.model_config.values import Config


def _qwen_windows(config: Config) -> list[int | None]:
    """Layers from `max_window_layers` on have the window, if it is switched on."""
    window = window_of(config, 4096) if config.flag("use_sliding_window", False) else None
    first = config.whole("max_window_layers", 28, least=0)
    layers = range(config.whole("num_hidden_layers"))
    default = [SLIDING if window is not None and layer >= first else FULL for layer in layers]
    return windows_of(config, layer_types_of(config, default), window)


def _llama(config: Config) -> Architecture:
    config.only("mlp_bias", False)
    grouped = grouped_attention(config, split_head(config), kv_heads=config.whole("num_attention_heads"))
    attention = with_biases(config, grouped, default=False)
    mlps = every_layer(config, dense_mlp(config))
    return assembled(config, attention, plain_layers(config, attention, every_layer(config, None), mlps))


def _qwen2(config: Config) -> Architecture:
    attention = replace(grouped_attention(config, split_head(config)), has_qkv_bias=True)
    mlps = every_layer(config, dense_mlp(config))
    return assembled(config, attention, plain_layers(config, attention, _qwen_windows(config), mlps))


def _qwen3(config: Config) -> Architecture:
    attention = replace(with_biases(config, grouped_attention(config), default=False), has_qk_norm=True)
    mlps = every_layer(config, dense_mlp(config))
    return assembled(config, attention, plain_layers(config, attention, _qwen_windows(config), mlps))


def _qwen3_moe(config: Config) -> Architecture:
    grouped = with_biases(config, grouped_attention(config, split_head(config)), default=False)
    attention = replace(grouped, has_qk_norm=True)
    window = window_of(config, 4096) if config.flag("use_sliding_window", False) else None
    layers = plain_layers(config, attention, every_layer(config, window), _qwen3_moe_mlps(config))
    return assembled(config, attention, layers)


def _qwen3_moe_mlps(config: Config) -> list[Mlp]:
    """Every `decoder_sparse_step`-th layer has experts, unless `mlp_only_layers` lists it."""
    # transformers 5 writes what the published files call num_experts as num_local_experts.
    count_key = "num_experts" if "num_experts" in config.values else "num_local_experts"
    experts = experts_of(config, count_key, "moe_intermediate_size")
    experts = replace(experts, renormalize=config.flag("norm_topk_prob", False))
    step, dense = config.whole("decoder_sparse_step", 1), config.values.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise UserError(f"{config.path}: mlp_only_layers must be a list of layers, got {dense!r}")
    layers = range(config.whole("num_hidden_layers"))
    return [experts if layer not in dense and (layer + 1) % step == 0 else dense_mlp(config) for layer in layers]


def _mistral(config: Config) -> Architecture:
    attention = grouped_attention(config, split_head(config))
    windows, mlps = every_layer(config, window_of(config, 4096)), every_layer(config, dense_mlp(config))
    return assembled(config, attention, plain_layers(config, attention, windows, mlps))


def _mixtral(config: Config) -> Architecture:
    attention = grouped_attention(config, split_head(config))
    windows = every_layer(config, window_of(config, None))
    mlps = every_layer(config, experts_of(config, "num_local_experts"))
    return assembled(config, attention, plain_layers(config, attention, windows, mlps, theta=1e6), eps=1e-5)


def _gemma3(config: Config) -> Architecture:
    config.only("hidden_activation", "gelu_pytorch_tanh")
    config.only("use_bidirectional_attention", False)
    attention = replace(
        with_biases(config, grouped_attention(config), default=False),
        scale=config.number("query_pre_attn_scalar", 256) ** -0.5,
        softcap=config.number_or_none("attn_logit_softcapping"),
        has_qk_norm=True,
    )
    return replace(
        assembled(config, attention, _gemma3_layers(config, attention.head_dim), tied=True),
        activation="geglu",
        norm_unit_offset=True,
        has_sandwich_norms=True,
        embedding_scale=config.whole("hidden_size") ** 0.5,
        logit_softcap=config.number_or_none("final_logit_softcapping"),
    )


def _gemma3_layers(config: Config, head_dim: int) -> tuple[Layer, ...]:
    """Every `sliding_window_pattern`-th layer sees all keys; the others have a window and a rotary of their own."""
    period = config.whole("sliding_window_pattern", 6)
    default = [SLIDING if (layer + 1) % period else FULL for layer in range(config.whole("num_hidden_layers"))]
    types = layer_types_of(config, default)
    rotaries = _gemma3_rotaries(config, head_dim)
    windows = windows_of(config, types, window_of(config, 4096))
    return layers_of(every_layer(config, dense_mlp(config)), [rotaries[kind] for kind in types], windows)


def _gemma3_rotaries(config: Config, head_dim: int) -> dict[str, Rotary]:
    """Of full and of sliding layers: only the full ones take `rope_scaling` and `rope_theta` of the older spelling."""
    by_type = config.inside(config.values.get("rope_parameters"), "rope settings")
    older = config.inside(config.values.get("rope_scaling"), "rope settings")
    if unknown := by_type.values.keys() - {FULL, SLIDING}:
        raise config.refusal("rope_parameters key", min(unknown), f"{FULL}, {SLIDING}")
    full, sliding = (config.inside(by_type.values.get(kind), "rope settings") for kind in (FULL, SLIDING))
    scaled = replace(full, values=full.values | older.values)
    local = replace(config, values=config.values | {"rope_theta": config.number("rope_local_base_freq", 1e4)})
    return {FULL: rotary_of(config, scaled, head_dim, 1e6), SLIDING: rotary_of(local, sliding, head_dim, 1e4)}


# What transformers assumes of a gpt-oss that says nothing of its rotary embedding.
_GPT_OSS_ROPE = {"rope_type": "yarn", "factor": 32.0, ORIGINAL: 4096, "truncate": False}


def _gpt_oss(config: Config) -> Architecture:
    for key, allowed in (("hidden_act", "silu"), ("swiglu_alpha", 1.702), ("swiglu_limit", 7.0)):
        config.only(key, allowed)
    attention = replace(with_biases(config, grouped_attention(config), default=True), has_sinks=True)
    default = [FULL if layer % 2 else SLIDING for layer in range(config.whole("num_hidden_layers"))]
    windows = windows_of(config, layer_types_of(config, default), window_of(config, 128))
    rope = rope_settings(config)
    rope = rope if rope.values else replace(rope, values=_GPT_OSS_ROPE)
    rotaries = every_layer(config, rotary_of(config, rope, attention.head_dim, 1.5e5))
    # Its softmax over the logits of the chosen experts is the softmax over all, renormalized.
    mlps = every_layer(config, replace(experts_of(config, "num_local_experts"), has_bias=True))
    parts = assembled(config, attention, layers_of(mlps, rotaries, windows), eps=1e-5)
    return replace(parts, activation="swiglu_clamped")


def _deepseek_v3(config: Config) -> Architecture:
    for key, allowed in _DEEPSEEK_V3_ONLY.items():
        config.only(key, allowed)
    rope = rope_settings(config)
    rotary = rotary_of(config, rope, config.whole("qk_rope_head_dim"), 1e4)
    rotary = replace(rotary, interleaved=config.flag("rope_interleave", True))
    rotaries, windows = every_layer(config, rotary), every_layer(config, None)
    attention = _latent(config, _score_temperature(rope, rotary))
    return assembled(config, attention, layers_of(_deepseek_v3_mlps(config), rotaries, windows))


_DEEPSEEK_V3_ONLY: dict[str, str | float] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
}


def _latent(config: Config, temperature: float) -> LatentAttention:
    """Latent attention; temperature: what q.k is multiplied with beside 1 / sqrt(width of a query head)."""
    if "q_lora_rank" not in config.values:
        raise UserError(f"{config.path}: q_lora_rank must be a positive integer, or null for none, got nothing")
    nope, rope = config.whole("qk_nope_head_dim"), config.whole("qk_rope_head_dim")
    return LatentAttention(
        num_attention_heads=config.whole("num_attention_heads"),
        q_lora_rank=None if config.values["q_lora_rank"] is None else config.whole("q_lora_rank"),
        kv_lora_rank=config.whole("kv_lora_rank"),
        qk_nope_head_dim=nope,
        qk_rope_head_dim=rope,
        v_head_dim=config.whole("v_head_dim"),
        scale=(nope + rope) ** -0.5 * temperature,
    )


def _score_temperature(rope: Config, rotary: Rotary) -> float:
    """Square of the part of YaRN's temperature that `mscale_all_dim` moves from cos and sin to all of q and k."""
    all_dim = rope.number_or_none("mscale_all_dim")
    return 1.0 if all_dim is None or rotary.scaling is None else yarn_temperature(rotary.scaling.factor, all_dim) ** 2


def _deepseek_v3_mlps(config: Config) -> list[Mlp]:
    """The first `first_k_dense_replace` layers are dense, the others have experts."""
    count, first = config.whole("num_hidden_layers"), config.whole("first_k_dense_replace", least=0)
    experts = _deepseek_v3_experts(config)
    return [dense_mlp(config) if layer < first else experts for layer in range(count)]


def _deepseek_v3_experts(config: Config) -> MixtureOfExperts:
    experts = experts_of(config, "n_routed_experts", "moe_intermediate_size")
    groups, top_groups = config.whole("n_group", 8), config.whole("topk_group", 4)
    if experts.num_experts % groups or top_groups > groups:
        raise UserError(
            f"{config.path}: n_group must divide n_routed_experts {experts.num_experts} and be at least topk_group"
            f" {top_groups}, got {groups}"
        )
    return replace(
        experts,
        score="sigmoid",
        renormalize=config.flag("norm_topk_prob", True),
        groups=groups,
        top_groups=top_groups,
        scale=config.number("routed_scaling_factor", 2.5),
        has_correction_bias=True,
        shared_intermediate_size=config.whole("n_shared_experts", least=0) * experts.intermediate_size,
    )


FAMILIES: dict[str, Callable[[Config], Architecture]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "mistral": _mistral,
    "gemma3_text": _gemma3,
    "mixtral": _mixtral,
    "qwen3_moe": _qwen3_moe,
    "gpt_oss": _gpt_oss,
    "deepseek_v3": _deepseek_v3,
}
