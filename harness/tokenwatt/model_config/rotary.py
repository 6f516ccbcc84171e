"""Rotary settings of a `config.json`, in the older and in the newer spelling."""

from __future__ import annotations

import math
from collections.abc import Callable

from tokenwatt.architecture import LinearScaling, Llama3Scaling, Rotary, YarnScaling
from tokenwatt.errors import UserError
from tokenwatt.model_config.values import Config

Scaling = LinearScaling | Llama3Scaling | YarnScaling


def rope_settings(config: Config) -> Config:
    """Rotary settings in the older spelling (`rope_scaling`), or in the newer (`rope_parameters`)."""
    values = config.values.get("rope_scaling") or config.values.get("rope_parameters")
    rope = config.inside(values, "rope settings")
    if any(isinstance(value, dict) for value in rope.values.values()):
        raise UserError(f"{config.path}: rope settings by layer type are not supported; allowed: one for all layers")
    return rope


def rotary_of(config: Config, rope: Config, dim: int, theta: float) -> Rotary:
    """Rotary embedding of `dim` elements; theta: where neither the settings nor the config name one."""
    for spelling in (config, rope):
        spelling.only("partial_rotary_factor", 1)
    if dim % 2:
        raise UserError(f"{config.path}: a rotary embedding needs an even number of elements, got {dim}")
    return Rotary(dim, rope.number("rope_theta", config.number("rope_theta", theta)), _scaling(rope))


def _scaling(rope: Config) -> Scaling | None:
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    if kind == "default":
        return None
    if kind not in tuple(_SCALINGS):
        raise rope.refusal("rope_type", kind, ", ".join(("default", *_SCALINGS)))
    return _SCALINGS[kind](rope)


def _linear(rope: Config) -> LinearScaling:
    return LinearScaling(*_needed(rope, "linear", "factor"))


def _llama3(rope: Config) -> Llama3Scaling:
    factor, low, high = _needed(rope, "llama3", "factor", "low_freq_factor", "high_freq_factor", ORIGINAL)[:3]
    return Llama3Scaling(factor, low, high, rope.whole(ORIGINAL))


def _yarn(rope: Config) -> YarnScaling:
    factor = _needed(rope, "yarn", "factor", ORIGINAL)[0]
    return YarnScaling(
        factor=factor,
        original_max_position_embeddings=rope.whole(ORIGINAL),
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        attention_factor=rope.number("attention_factor", _attention_factor(rope, factor)),
        truncate=rope.flag("truncate", True),
    )


ORIGINAL = "original_max_position_embeddings"
_SCALINGS: dict[str, Callable[[Config], Scaling]] = {"linear": _linear, "llama3": _llama3, "yarn": _yarn}


def _needed(rope: Config, kind: str, *keys: str) -> list[float]:
    """Numbers that a scaling cannot do without; one error names all that are missing."""
    missing = [key for key in keys if isinstance(rope.values.get(key), str | bool | list | dict | None)]
    if missing:
        raise UserError(f"{rope.path}: rope scaling {kind} needs a number for {', '.join(missing)}")
    return [rope.number(key) for key in keys]


def _attention_factor(rope: Config, factor: float) -> float:
    """What YaRN multiplies cos and sin with: DeepSeek moves a part of it, or all, to the scale of the scores."""
    mscale, all_dim = rope.number_or_none("mscale"), rope.number_or_none("mscale_all_dim")
    if mscale is None or all_dim is None:
        return yarn_temperature(factor)
    return yarn_temperature(factor, mscale) / yarn_temperature(factor, all_dim)


def yarn_temperature(factor: float, weight: float = 1.0) -> float:
    """1 + weight ln(factor) / 10: the temperature of a context that is `factor` times as long (arXiv 2309.00071)."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
