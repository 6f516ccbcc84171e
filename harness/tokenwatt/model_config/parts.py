"""Parts of an architecture that several families have, read from a `config.json`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from tokenwatt.architecture import (
    Architecture,
    CheckpointFormat,
    DenseMlp,
    GroupedAttention,
    LatentAttention,
    Layer,
    MixtureOfExperts,
    Rotary,
)
from tokenwatt.errors import UserError
from tokenwatt.model_config.rotary import rope_settings, rotary_of
from tokenwatt.model_config.values import Config

FULL, SLIDING = "full_attention", "sliding_attention"

Mlp = DenseMlp | MixtureOfExperts
Part = TypeVar("Part")


def window_of(config: Config, default: int | None) -> int | None:
    """Keys that a query sees; null is all of them."""
    value = config.values.get("sliding_window", default)
    return None if value is None else config.whole("sliding_window", default)


def layer_types_of(config: Config, default: Sequence[str]) -> Sequence[str]:
    """`layer_types`, or the family's own pattern."""
    types = config.values.get("layer_types")
    if types is None:
        return default
    if not isinstance(types, list) or len(types) != len(default):
        raise UserError(f"{config.path}: layer_types must be a list of {len(default)}, one a layer, got {types!r}")
    for found in types:
        if found not in (FULL, SLIDING):
            raise config.refusal("layer_types", found, f"{FULL}, {SLIDING}")
    return types


def windows_of(config: Config, types: Iterable[str], window: int | None) -> list[int | None]:
    """The window of each layer, from the layers' types."""
    if window is None and SLIDING in types:
        raise UserError(f"{config.path}: layer_types has {SLIDING}, which needs a sliding_window, got None")
    return [window if kind == SLIDING else None for kind in types]


def every_layer(config: Config, part: Part) -> list[Part]:
    """The same part for each layer."""
    return [part] * config.whole("num_hidden_layers")


def grouped_attention(config: Config, head_dim: int | None = None, kv_heads: int | None = None) -> GroupedAttention:
    """Plain grouped-query attention; head_dim and kv_heads: where the config may leave them out, what they then are."""
    heads = config.whole("num_attention_heads")
    kv = config.whole("num_key_value_heads") if kv_heads is None else config.whole_or("num_key_value_heads", kv_heads)
    if heads % kv:
        raise UserError(f"{config.path}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv}")
    dim = config.whole("head_dim") if head_dim is None else config.whole_or("head_dim", head_dim)
    return GroupedAttention(heads, kv, dim, scale=dim**-0.5)


def split_head(config: Config) -> int:
    """Width of a head where the heads share the hidden size."""
    hidden, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    if config.values.get("head_dim") is None and hidden % heads:
        raise UserError(f"{config.path}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
    return hidden // heads


def with_biases(config: Config, attention: GroupedAttention, default: bool) -> GroupedAttention:
    """The same attention with the biases that `attention_bias` switches: of all four projections."""
    bias = config.flag("attention_bias", default)
    return replace(attention, has_qkv_bias=bias, has_o_bias=bias)


def dense_mlp(config: Config) -> DenseMlp:
    """An MLP that every token goes through."""
    return DenseMlp(config.whole("intermediate_size"))


def experts_of(config: Config, count_key: str, size_key: str = "intermediate_size") -> MixtureOfExperts:
    """Experts with a plain router; the keys name their number and the width of one."""
    count, top_k = config.whole(count_key), config.whole("num_experts_per_tok")
    if top_k > count:
        raise UserError(f"{config.path}: num_experts_per_tok {top_k} is more than {count_key} {count}")
    return MixtureOfExperts(count, top_k, config.whole(size_key))


def layers_of(mlps: Sequence[Mlp], rotaries: Sequence[Rotary], windows: Sequence[int | None]) -> tuple[Layer, ...]:
    """Layers of such parts, one of each kind a layer."""
    return tuple(Layer(*parts) for parts in zip(mlps, rotaries, windows, strict=True))


def assembled(
    config: Config,
    attention: GroupedAttention | LatentAttention,
    layers: tuple[Layer, ...],
    eps: float = 1e-6,
    tied: bool = False,
) -> Architecture:
    """The parts put together; eps and tied: the family's defaults."""
    return Architecture(
        name=config.name,
        model_type=config.values["model_type"],
        hidden_size=config.whole("hidden_size"),
        vocab_size=config.whole("vocab_size"),
        max_position_embeddings=config.whole("max_position_embeddings"),
        rms_norm_eps=config.number("rms_norm_eps", eps),
        tie_word_embeddings=config.flag("tie_word_embeddings", tied),
        attention=attention,
        layers=layers,
        checkpoint_format=_checkpoint_format(config),
    )


def _checkpoint_format(config: Config) -> CheckpointFormat:
    quantization = config.inside(config.values.get("quantization_config"), "quantization_config").values
    if not quantization:
        return "plain"
    method = quantization.get("quant_method")
    if method == "mxfp4" and config.values["model_type"] == "gpt_oss":
        return "mxfp4_experts"
    raise config.refusal("quantization_config of quant_method", method, "mxfp4 (of gpt_oss), or no quantization_config")


def plain_layers(
    config: Config, attention: GroupedAttention, windows: list[int | None], mlps: Sequence[Mlp], theta: float = 1e4
) -> tuple[Layer, ...]:
    """Layers with silu and with one rotary embedding for all."""
    config.only("hidden_act", "silu")
    rotary = rotary_of(config, rope_settings(config), attention.head_dim, theta)
    return layers_of(mlps, every_layer(config, rotary), windows)
