"""Reads a shape from a `config.json`: of a folder, or from the facts of the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenwatt.errors import UserError
from tokenwatt.model_config import load_architecture, read_config, text_part
from tokenwatt.model_config.values import Config
from tokenwatt.perf_model.shape import ModelShape, shape_of_architecture
from tokenwatt.perf_model.shape_library.facts import ModelFacts, WeightDtype
from tokenwatt.perf_model.shape_library.families import SHAPES


def shape_of_facts(name: str, facts: ModelFacts) -> ModelShape:
    """Shape of a model of the library."""
    if facts.config is None:
        return shape_of_architecture(load_architecture(name))
    return shape_of_config(Config(name, Path(f"{name}.json"), facts.config))


def shape_of_folder(folder: Path) -> ModelShape:
    """Shape of a model in a folder that holds a `config.json`.

    Raises:
        UserError: a family that is not known, or a value that it does not have.
    """
    path = folder / "config.json"
    return shape_of_config(Config(folder.resolve().name, path, _language_model(read_config(path))))


def shape_of_config(config: Config) -> ModelShape:
    """Shape that the values of a config describe."""
    model_type = config.values.get("model_type", "missing")
    if model_type not in tuple(SHAPES):
        raise config.refusal("model_type", model_type, ", ".join(SHAPES))
    return SHAPES[model_type](config)


def dtype_of_folder(folder: Path) -> WeightDtype:
    """How the weights beside a `config.json` are stored, from its `quantization_config`.

    Raises:
        UserError: a quantisation that the predictor has no name for.
    """
    path = folder / "config.json"
    config = Config(folder.resolve().name, path, _language_model(read_config(path)))
    quantization = config.inside(config.values.get("quantization_config"), "quantization_config").values
    method, sizes = quantization.get("quant_method"), quantization.get("weight_block_size")
    if not quantization:
        return "bf16"
    if method == "mxfp4":
        return "mxfp4_experts"
    if method == "fp8" and sizes == [128, 128]:
        return "fp8_block"
    allowed = "none, mxfp4, fp8 with a weight_block_size of [128, 128]"
    raise UserError(f"{path}: weights of quant_method {method!r} are not known; allowed: {allowed}")


def _language_model(values: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that describes the language model, where the model also sees."""
    values = text_part(values)
    text = values.get("text_config")
    if not isinstance(text, dict):
        return values
    outer = {key: values[key] for key in ("quantization_config", "tie_word_embeddings") if key in values}
    return {"model_type": values.get("model_type"), **text, **outer}
