"""What a model is, from its Hugging Face `config.json` alone: shapes, parameters and bytes. No weights, no torch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenwatt.errors import UserError, unknown_name
from tokenwatt.workloads import library_folder

BYTES_PER_ELEMENT = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Llama3RopeScaling:
    """Frequency scaling of Llama 3.1: low frequencies are divided by `factor`, a band between is interpolated."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """Shape of a decoder-only transformer with grouped-query attention and a gated MLP (Llama and Qwen3 families)."""

    name: str
    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Llama3RopeScaling | None
    tie_word_embeddings: bool
    has_qk_norm: bool

    @property
    def q_size(self) -> int:
        """Width of the query projection."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the key projection, and of the value projection."""
        return self.num_key_value_heads * self.head_dim

    @property
    def matmul_parameters(self) -> int:
        """Weights that every token is multiplied with: projections, MLP and the output head; no embedding look-up."""
        attention = self.hidden_size * (self.q_size + 2 * self.kv_size) + self.q_size * self.hidden_size
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.num_hidden_layers * (attention + mlp) + self.hidden_size * self.vocab_size

    @property
    def parameters(self) -> int:
        """All weights, a tied embedding counted once."""
        norms = self.num_hidden_layers * 2 * self.hidden_size + self.hidden_size
        qk_norms = self.num_hidden_layers * 2 * self.head_dim if self.has_qk_norm else 0
        embedding = 0 if self.tie_word_embeddings else self.vocab_size * self.hidden_size
        return self.matmul_parameters + norms + qk_norms + embedding

    def kv_bytes_per_token(self, dtype: str) -> int:
        """KV cache of one token over all layers, in bytes."""
        return 2 * self.num_hidden_layers * self.kv_size * BYTES_PER_ELEMENT[dtype]

    def matmul_bytes(self, dtype: str) -> int:
        """Bytes of weights that one decode step streams."""
        return self.matmul_parameters * BYTES_PER_ELEMENT[dtype]


SUPPORTED_MODEL_TYPES = ("llama", "qwen3")


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
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"model folder {folder} has no config.json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: must hold a JSON object, got {type(config).__name__}")
    return _from_config(model, config, path)


def _from_config(name: str, config: dict[str, Any], path: Path) -> Architecture:
    model_type = config.get("model_type", "missing")
    if model_type not in SUPPORTED_MODEL_TYPES:
        raise UserError(
            f"{path}: model_type {model_type!r} is not supported; allowed: {', '.join(SUPPORTED_MODEL_TYPES)}"
        )
    for switch in ("attention_bias", "mlp_bias", "use_sliding_window"):
        if config.get(switch):
            raise UserError(f"{path}: {switch} = true is not supported yet")
    if config.get("hidden_act", "silu") != "silu":
        raise UserError(f"{path}: hidden_act {config['hidden_act']!r} is not supported; allowed: silu")

    def positive(key: str, default: int | None = None) -> int:
        value = config.get(key, default)
        if not isinstance(value, int) or value <= 0:
            raise UserError(f"{path}: {key} must be a positive integer, got {value!r}")
        return value

    heads = positive("num_attention_heads")
    kv_heads = positive("num_key_value_heads", heads)
    if heads % kv_heads:
        raise UserError(f"{path}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    hidden = positive("hidden_size")
    theta, scaling = _rope(config, path)
    return Architecture(
        name=name,
        model_type=model_type,
        hidden_size=hidden,
        intermediate_size=positive("intermediate_size"),
        num_hidden_layers=positive("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=positive("head_dim", hidden // heads),
        vocab_size=positive("vocab_size"),
        max_position_embeddings=positive("max_position_embeddings"),
        rms_norm_eps=_number(config, "rms_norm_eps", 1e-6, path),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        has_qk_norm=model_type == "qwen3",
    )


def _number(config: dict[str, Any], key: str, default: float, path: Path) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"{path}: {key} must be a positive number, got {value!r}")
    return float(value)


def _rope(config: dict[str, Any], path: Path) -> tuple[float, Llama3RopeScaling | None]:
    """Rotary settings, in the older (`rope_theta`, `rope_scaling`) or the newer (`rope_parameters`) spelling."""
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(settings, dict):
        raise UserError(f"{path}: rope settings must be a JSON object, got {settings!r}")
    theta = _number({**config, **settings}, "rope_theta", 10000.0, path)
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise UserError(f"{path}: rope_type {kind!r} is not supported; allowed: default, llama3")
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    missing = [
        key for key in keys if not isinstance(settings.get(key), int | float) or not math.isfinite(settings[key])
    ]
    if missing:
        raise UserError(f"{path}: rope scaling llama3 needs a number for {', '.join(missing)}")
    return theta, Llama3RopeScaling(
        factor=float(settings["factor"]),
        low_freq_factor=float(settings["low_freq_factor"]),
        high_freq_factor=float(settings["high_freq_factor"]),
        original_max_position_embeddings=int(settings["original_max_position_embeddings"]),
    )
