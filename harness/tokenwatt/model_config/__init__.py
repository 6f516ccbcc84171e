"""Reads an `Architecture` from a Hugging Face `config.json`. No weights, no torch.

`values` checks what is read, `rotary` and `parts` read what families share, `families` knows the families.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenwatt.architecture import Architecture
from tokenwatt.errors import UserError, unknown_name
from tokenwatt.model_config.families import FAMILIES
from tokenwatt.model_config.values import Config
from tokenwatt.workloads import library_folder

SUPPORTED_MODEL_TYPES = tuple(FAMILIES)


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
    config = Config(model, path, text_part(read_config(path)))
    model_type = config.values.get("model_type", "missing")
    if model_type not in SUPPORTED_MODEL_TYPES:
        raise config.refusal("model_type", model_type, ", ".join(SUPPORTED_MODEL_TYPES))
    return FAMILIES[model_type](config)


def read_config(path: Path) -> dict[str, Any]:
    """The object in a `config.json`.

    Raises:
        UserError: no such file, or no JSON object in it.
    """
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


def text_part(values: dict[str, Any]) -> dict[str, Any]:
    """The language model of a Gemma 3 that also sees; any other config as it is."""
    text = values.get("text_config")
    if values.get("model_type") != "gemma3" or not isinstance(text, dict) or text.get("model_type") != "gemma3_text":
        return values
    outer = {key: values[key] for key in ("quantization_config", "tie_word_embeddings") if key in values}
    return {**_GEMMA3_TEXT, **text, **outer}
