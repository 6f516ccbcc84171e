"""Reads an `Architecture` from a Hugging Face `config.json`. No weights, no torch.

A family is a function that names its parts. What a key means, and what a missing key that is no shape defaults to, is
as in transformers 5.23 (`configuration_*.py`, `modeling_*.py` of the family, `modeling_rope_utils.py`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tokenwatt.architecture import (
    Architecture,
    CheckpointFormat,
    DenseMlp,
    GroupedAttention,
    LatentAttention,
    Layer,
    LinearScaling,
    Llama3Scaling,
    MixtureOfExperts,
    Rotary,
    YarnScaling,
)
from tokenwatt.errors import UserError, unknown_name
from tokenwatt.workloads import library_folder

FULL, SLIDING = "full_attention", "sliding_attention"

Mlp = DenseMlp | MixtureOfExperts
Scaling = LinearScaling | Llama3Scaling | YarnScaling
Part = TypeVar("Part")


def locate(model: str) -> Path | None:
    """Folder of a model of the library, or the folder that `model` is a path of; None if there is neither."""
    shipped = library_folder() / "models" / model
    return next((folder for folder in (shipped, Path(model)) if folder.is_dir()), None)


def load_architecture(model: str) -> Architecture:
    """Read the architecture of a model of the library, or of a folder that holds a `config.json`.

    Raises:
        UserError: no such model, no `config.json`, or a shape that tokenwatt does not run.
    """
    folder = locate(model)
    if folder is None:
        if "/" in model:
            raise UserError(f"no such model folder: {model}")
        known = [path.parent.name for path in (library_folder() / "models").glob("*/config.json")]
        raise unknown_name("model", model, known)
    path = folder / "config.json"
    config = _Config(model, path, _text_part(_read(path)))
    model_type = config.values.get("model_type", "missing")
    if model_type not in SUPPORTED_MODEL_TYPES:
        raise config.refusal("model_type", model_type, ", ".join(SUPPORTED_MODEL_TYPES))
    return _FAMILIES[model_type](config)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"model folder {path.parent} has no config.json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold a JSON object, got {type(values).__name__}")
    return values


# Shapes that the published `text_config` of Gemma 3 leaves out: those of transformers' Gemma3TextConfig.
_GEMMA3_TEXT = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
}


def _text_part(values: dict[str, Any]) -> dict[str, Any]:
    """The language model of a Gemma 3 that also sees; any other config as it is."""
    text = values.get("text_config")
    if values.get("model_type") != "gemma3" or not isinstance(text, dict) or text.get("model_type") != "gemma3_text":
        return values
    outer = {key: values[key] for key in ("quantization_config", "tie_word_embeddings") if key in values}
    return {**_GEMMA3_TEXT, **text, **outer}


@dataclass(frozen=True, slots=True)
class _Config:
    """The object in a `config.json`, or one inside it; what is read from it is checked.

    Every method raises a UserError that names the file, the key, what was found and what is allowed.
    """

    name: str
    path: Path
    values: dict[str, Any]

    def refusal(self, key: str, found: object, allowed: str) -> UserError:
        """The error of a value that tokenwatt does not run."""
        shown = str(found).lower() if isinstance(found, bool) else repr(found)
        return UserError(f"{self.path}: {key} {shown} is not supported; allowed: {allowed}")

    def only(self, key: str, allowed: str | float) -> None:
        """Refuse any other value of a key; a missing key has the allowed one."""
        found = self.values.get(key)
        if found is not None and found != allowed:
            raise self.refusal(key, found, str(allowed).lower() if isinstance(allowed, bool) else str(allowed))

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        """An integer from `least` on; without a default it must be there."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            kind = "a positive integer" if least == 1 else f"an integer >= {least}"
            raise UserError(f"{self.path}: {key} must be {kind}, got {value!r}")
        return value

    def whole_or(self, key: str, derived: int) -> int:
        """A positive integer; where it is missing or null, what it is derived to be."""
        return derived if self.values.get(key) is None else self.whole(key)

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number; where it is missing or null, the default, if there is one."""
        found = self.values.get(key)
        value = default if found is None else found
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise UserError(f"{self.path}: {key} must be a positive number, got {value!r}")
        return float(value)

    def number_or_none(self, key: str) -> float | None:
        """A positive number; None where it is missing or null."""
        return None if self.values.get(key) is None else self.number(key)

    def flag(self, key: str, default: bool) -> bool:
        """A switch; null is off, as in Python."""
        value = self.values.get(key, default)
        if value is not None and not isinstance(value, bool):
            raise UserError(f"{self.path}: {key} must be true or false, got {value!r}")
        return bool(value)

    def inside(self, values: object, what: str) -> _Config:
        """An object inside this one; null is an empty one."""
        if values is not None and not isinstance(values, dict):
            raise UserError(f"{self.path}: {what} must be a JSON object, got {values!r}")
        return replace(self, values=values or {})


def _rope(config: _Config) -> _Config:
    """Rotary settings in the older spelling (`rope_scaling`), or in the newer (`rope_parameters`)."""
    values = config.values.get("rope_scaling") or config.values.get("rope_parameters")
    rope = config.inside(values, "rope settings")
    if any(isinstance(value, dict) for value in rope.values.values()):
        raise UserError(f"{config.path}: rope settings by layer type are not supported; allowed: one for all layers")
    return rope


def _rotary(config: _Config, rope: _Config, dim: int, theta: float) -> Rotary:
    """Rotary embedding of `dim` elements; theta: where neither the settings nor the config name one."""
    for spelling in (config, rope):
        spelling.only("partial_rotary_factor", 1)
    if dim % 2:
        raise UserError(f"{config.path}: a rotary embedding needs an even number of elements, got {dim}")
    return Rotary(dim, rope.number("rope_theta", config.number("rope_theta", theta)), _scaling(rope))


def _scaling(rope: _Config) -> Scaling | None:
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    if kind == "default":
        return None
    if kind not in tuple(_SCALINGS):
        raise rope.refusal("rope_type", kind, ", ".join(("default", *_SCALINGS)))
    return _SCALINGS[kind](rope)


def _linear(rope: _Config) -> LinearScaling:
    return LinearScaling(*_needed(rope, "linear", "factor"))


def _llama3(rope: _Config) -> Llama3Scaling:
    factor, low, high = _needed(rope, "llama3", "factor", "low_freq_factor", "high_freq_factor", _ORIGINAL)[:3]
    return Llama3Scaling(factor, low, high, rope.whole(_ORIGINAL))


def _yarn(rope: _Config) -> YarnScaling:
    factor = _needed(rope, "yarn", "factor", _ORIGINAL)[0]
    return YarnScaling(
        factor=factor,
        original_max_position_embeddings=rope.whole(_ORIGINAL),
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        attention_factor=rope.number("attention_factor", _attention_factor(rope, factor)),
        truncate=rope.flag("truncate", True),
    )


_ORIGINAL = "original_max_position_embeddings"
_SCALINGS: dict[str, Callable[[_Config], Scaling]] = {"linear": _linear, "llama3": _llama3, "yarn": _yarn}


def _needed(rope: _Config, kind: str, *keys: str) -> list[float]:
    """Numbers that a scaling cannot do without; one error names all that are missing."""
    missing = [key for key in keys if isinstance(rope.values.get(key), str | bool | list | dict | None)]
    if missing:
        raise UserError(f"{rope.path}: rope scaling {kind} needs a number for {', '.join(missing)}")
    return [rope.number(key) for key in keys]


def _attention_factor(rope: _Config, factor: float) -> float:
    """What YaRN multiplies cos and sin with: DeepSeek moves a part of it, or all, to the scale of the scores."""
    mscale, all_dim = rope.number_or_none("mscale"), rope.number_or_none("mscale_all_dim")
    if mscale is None or all_dim is None:
        return _mscale(factor)
    return _mscale(factor, mscale) / _mscale(factor, all_dim)


def _mscale(factor: float, weight: float = 1.0) -> float:
    """1 + weight ln(factor) / 10: the temperature of a context that is `factor` times as long (arXiv 2309.00071)."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _window(config: _Config, default: int | None) -> int | None:
    """Keys that a query sees; null is all of them."""
    value = config.values.get("sliding_window", default)
    return None if value is None else config.whole("sliding_window", default)


def _layer_types(config: _Config, default: Sequence[str]) -> Sequence[str]:
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


def _windows(config: _Config, types: Iterable[str], window: int | None) -> list[int | None]:
    """The window of each layer, from the layers' types."""
    if window is None and SLIDING in types:
        raise UserError(f"{config.path}: layer_types has {SLIDING}, which needs a sliding_window, got None")
    return [window if kind == SLIDING else None for kind in types]


def _qwen_windows(config: _Config) -> list[int | None]:
    """Layers from `max_window_layers` on have the window, if it is switched on."""
    window = _window(config, 4096) if config.flag("use_sliding_window", False) else None
    first = config.whole("max_window_layers", 28, least=0)
    layers = range(config.whole("num_hidden_layers"))
    default = [SLIDING if window is not None and layer >= first else FULL for layer in layers]
    return _windows(config, _layer_types(config, default), window)


def _all_layers(config: _Config, part: Part) -> list[Part]:
    return [part] * config.whole("num_hidden_layers")


def _grouped(config: _Config, head_dim: int | None = None, kv_heads: int | None = None) -> GroupedAttention:
    """Plain grouped-query attention; head_dim and kv_heads: where the config may leave them out, what they then are."""
    heads = config.whole("num_attention_heads")
    kv = config.whole("num_key_value_heads") if kv_heads is None else config.whole_or("num_key_value_heads", kv_heads)
    if heads % kv:
        raise UserError(f"{config.path}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv}")
    dim = config.whole("head_dim") if head_dim is None else config.whole_or("head_dim", head_dim)
    return GroupedAttention(heads, kv, dim, scale=dim**-0.5)


def _split_head(config: _Config) -> int:
    """Width of a head where the heads share the hidden size."""
    hidden, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    if config.values.get("head_dim") is None and hidden % heads:
        raise UserError(f"{config.path}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
    return hidden // heads


def _biased(config: _Config, attention: GroupedAttention, default: bool) -> GroupedAttention:
    """The same attention with the biases that `attention_bias` switches: of all four projections."""
    bias = config.flag("attention_bias", default)
    return replace(attention, has_qkv_bias=bias, has_o_bias=bias)


def _dense(config: _Config) -> DenseMlp:
    return DenseMlp(config.whole("intermediate_size"))


def _experts(config: _Config, count_key: str, size_key: str = "intermediate_size") -> MixtureOfExperts:
    count, top_k = config.whole(count_key), config.whole("num_experts_per_tok")
    if top_k > count:
        raise UserError(f"{config.path}: num_experts_per_tok {top_k} is more than {count_key} {count}")
    return MixtureOfExperts(count, top_k, config.whole(size_key))


def _layers(mlps: Sequence[Mlp], rotaries: Sequence[Rotary], windows: Sequence[int | None]) -> tuple[Layer, ...]:
    return tuple(Layer(*parts) for parts in zip(mlps, rotaries, windows, strict=True))


def _architecture(
    config: _Config,
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


def _checkpoint_format(config: _Config) -> CheckpointFormat:
    quantization = config.inside(config.values.get("quantization_config"), "quantization_config").values
    if not quantization:
        return "plain"
    method = quantization.get("quant_method")
    if method == "mxfp4" and config.values["model_type"] == "gpt_oss":
        return "mxfp4_experts"
    raise config.refusal("quantization_config of quant_method", method, "mxfp4 (of gpt_oss), or no quantization_config")


def _plain(
    config: _Config, attention: GroupedAttention, windows: list[int | None], mlps: Sequence[Mlp], theta: float = 1e4
) -> tuple[Layer, ...]:
    """Layers with silu and with one rotary embedding for all."""
    config.only("hidden_act", "silu")
    rotary = _rotary(config, _rope(config), attention.head_dim, theta)
    return _layers(mlps, _all_layers(config, rotary), windows)


def _llama(config: _Config) -> Architecture:
    config.only("mlp_bias", False)
    grouped = _grouped(config, _split_head(config), kv_heads=config.whole("num_attention_heads"))
    attention = _biased(config, grouped, default=False)
    mlps = _all_layers(config, _dense(config))
    return _architecture(config, attention, _plain(config, attention, _all_layers(config, None), mlps))


def _qwen2(config: _Config) -> Architecture:
    attention = replace(_grouped(config, _split_head(config)), has_qkv_bias=True)
    mlps = _all_layers(config, _dense(config))
    return _architecture(config, attention, _plain(config, attention, _qwen_windows(config), mlps))


def _qwen3(config: _Config) -> Architecture:
    attention = replace(_biased(config, _grouped(config), default=False), has_qk_norm=True)
    mlps = _all_layers(config, _dense(config))
    return _architecture(config, attention, _plain(config, attention, _qwen_windows(config), mlps))


def _qwen3_moe(config: _Config) -> Architecture:
    grouped = _biased(config, _grouped(config, _split_head(config)), default=False)
    attention = replace(grouped, has_qk_norm=True)
    window = _window(config, 4096) if config.flag("use_sliding_window", False) else None
    layers = _plain(config, attention, _all_layers(config, window), _qwen3_moe_mlps(config))
    return _architecture(config, attention, layers)


def _qwen3_moe_mlps(config: _Config) -> list[Mlp]:
    """Every `decoder_sparse_step`-th layer has experts, unless `mlp_only_layers` lists it."""
    # transformers 5 writes what the published files call num_experts as num_local_experts.
    count_key = "num_experts" if "num_experts" in config.values else "num_local_experts"
    experts = _experts(config, count_key, "moe_intermediate_size")
    experts = replace(experts, renormalize=config.flag("norm_topk_prob", False))
    step, dense = config.whole("decoder_sparse_step", 1), config.values.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise UserError(f"{config.path}: mlp_only_layers must be a list of layers, got {dense!r}")
    layers = range(config.whole("num_hidden_layers"))
    return [experts if layer not in dense and (layer + 1) % step == 0 else _dense(config) for layer in layers]


def _mistral(config: _Config) -> Architecture:
    attention = _grouped(config, _split_head(config))
    windows = _all_layers(config, _window(config, 4096))
    return _architecture(config, attention, _plain(config, attention, windows, _all_layers(config, _dense(config))))


def _mixtral(config: _Config) -> Architecture:
    attention = _grouped(config, _split_head(config))
    windows = _all_layers(config, _window(config, None))
    mlps = _all_layers(config, _experts(config, "num_local_experts"))
    return _architecture(config, attention, _plain(config, attention, windows, mlps, theta=1e6), eps=1e-5)


def _gemma3(config: _Config) -> Architecture:
    config.only("hidden_activation", "gelu_pytorch_tanh")
    config.only("use_bidirectional_attention", False)
    attention = replace(
        _biased(config, _grouped(config), default=False),
        scale=config.number("query_pre_attn_scalar", 256) ** -0.5,
        softcap=config.number_or_none("attn_logit_softcapping"),
        has_qk_norm=True,
    )
    return replace(
        _architecture(config, attention, _gemma3_layers(config, attention.head_dim), tied=True),
        activation="geglu",
        norm_unit_offset=True,
        has_sandwich_norms=True,
        embedding_scale=config.whole("hidden_size") ** 0.5,
        logit_softcap=config.number_or_none("final_logit_softcapping"),
    )


def _gemma3_layers(config: _Config, head_dim: int) -> tuple[Layer, ...]:
    """Every `sliding_window_pattern`-th layer sees all keys; the others have a window and a rotary of their own."""
    period = config.whole("sliding_window_pattern", 6)
    default = [SLIDING if (layer + 1) % period else FULL for layer in range(config.whole("num_hidden_layers"))]
    types = _layer_types(config, default)
    rotaries = _gemma3_rotaries(config, head_dim)
    windows = _windows(config, types, _window(config, 4096))
    return _layers(_all_layers(config, _dense(config)), [rotaries[kind] for kind in types], windows)


def _gemma3_rotaries(config: _Config, head_dim: int) -> dict[str, Rotary]:
    """Of full and of sliding layers: only the full ones take `rope_scaling` and `rope_theta` of the older spelling."""
    by_type = config.inside(config.values.get("rope_parameters"), "rope settings")
    older = config.inside(config.values.get("rope_scaling"), "rope settings")
    if unknown := by_type.values.keys() - {FULL, SLIDING}:
        raise config.refusal("rope_parameters key", min(unknown), f"{FULL}, {SLIDING}")
    full, sliding = (config.inside(by_type.values.get(kind), "rope settings") for kind in (FULL, SLIDING))
    scaled = replace(full, values=full.values | older.values)
    local = replace(config, values=config.values | {"rope_theta": config.number("rope_local_base_freq", 1e4)})
    return {FULL: _rotary(config, scaled, head_dim, 1e6), SLIDING: _rotary(local, sliding, head_dim, 1e4)}


# What transformers assumes of a gpt-oss that says nothing of its rotary embedding.
_GPT_OSS_ROPE = {"rope_type": "yarn", "factor": 32.0, _ORIGINAL: 4096, "truncate": False}


def _gpt_oss(config: _Config) -> Architecture:
    for key, allowed in (("hidden_act", "silu"), ("swiglu_alpha", 1.702), ("swiglu_limit", 7.0)):
        config.only(key, allowed)
    attention = replace(_biased(config, _grouped(config), default=True), has_sinks=True)
    default = [FULL if layer % 2 else SLIDING for layer in range(config.whole("num_hidden_layers"))]
    windows = _windows(config, _layer_types(config, default), _window(config, 128))
    rope = _rope(config)
    rope = rope if rope.values else replace(rope, values=_GPT_OSS_ROPE)
    rotaries = _all_layers(config, _rotary(config, rope, attention.head_dim, 1.5e5))
    # Its softmax over the logits of the chosen experts is the softmax over all, renormalized.
    mlps = _all_layers(config, replace(_experts(config, "num_local_experts"), has_bias=True))
    parts = _architecture(config, attention, _layers(mlps, rotaries, windows), eps=1e-5)
    return replace(parts, activation="swiglu_clamped")


def _deepseek_v3(config: _Config) -> Architecture:
    for key, allowed in _DEEPSEEK_V3_ONLY.items():
        config.only(key, allowed)
    rope = _rope(config)
    rotary = _rotary(config, rope, config.whole("qk_rope_head_dim"), 1e4)
    rotary = replace(rotary, interleaved=config.flag("rope_interleave", True))
    rotaries, windows = _all_layers(config, rotary), _all_layers(config, None)
    attention = _latent(config, _score_temperature(rope, rotary))
    return _architecture(config, attention, _layers(_deepseek_v3_mlps(config), rotaries, windows))


_DEEPSEEK_V3_ONLY: dict[str, str | float] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
}


def _latent(config: _Config, temperature: float) -> LatentAttention:
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


def _score_temperature(rope: _Config, rotary: Rotary) -> float:
    """Square of the part of YaRN's temperature that `mscale_all_dim` moves from cos and sin to all of q and k."""
    all_dim = rope.number_or_none("mscale_all_dim")
    return 1.0 if all_dim is None or rotary.scaling is None else _mscale(rotary.scaling.factor, all_dim) ** 2


def _deepseek_v3_mlps(config: _Config) -> list[Mlp]:
    """The first `first_k_dense_replace` layers are dense, the others have experts."""
    count, first = config.whole("num_hidden_layers"), config.whole("first_k_dense_replace", least=0)
    experts = _deepseek_v3_experts(config)
    return [_dense(config) if layer < first else experts for layer in range(count)]


def _deepseek_v3_experts(config: _Config) -> MixtureOfExperts:
    experts = _experts(config, "n_routed_experts", "moe_intermediate_size")
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


_FAMILIES: dict[str, Callable[[_Config], Architecture]] = {
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
SUPPORTED_MODEL_TYPES = tuple(_FAMILIES)
