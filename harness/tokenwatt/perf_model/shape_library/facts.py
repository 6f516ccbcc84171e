"""Facts of published models: one file of `models/` each, with its source."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, ValidationError

from tokenwatt.errors import UserError
from tokenwatt.reference.facts import Grade
from tokenwatt.spec import Spec

WeightDtype = Literal["bf16", "fp8_block", "mxfp4_experts", "int4_experts"]
"""`bf16`: or float16, which costs the same. `fp8_block`: all products but head and router in float8_e4m3fn with a scale
for each 128 x 128. The last two: the experts in it, all else in bfloat16."""

Text = Annotated[str, Field(min_length=1)]


class ModelFacts(Spec):
    """One architecture. Its name is that of the file."""

    aliases: tuple[Text, ...] = ()
    """Other models of the same shape, as their releases are called."""
    source: Text
    """Where the config was read."""
    grade: Grade
    """How it came to us."""
    config: dict[str, Any] | None = None
    """Keys of `config.json` that the shape needs, those of a nested `text_config` among them. None: that of the model
    of this name in the library of workloads."""
    parameters: PositiveFloat
    """Parameters that its makers count of the language model, in which the config has to agree within 1 %."""
    parameters_source: Text
    """Where that number was read."""
    active_parameters: PositiveFloat | None = None
    """Those that its makers count for one token."""
    native_weight_dtype: WeightDtype = "bf16"
    """How the published weights are stored."""


def library_folder() -> Path:
    """Folder of the shipped facts."""
    return Path(str(files("tokenwatt.perf_model.shape_library")))


@cache
def load_models() -> dict[str, ModelFacts]:
    """Facts of every model of the library, by name."""
    return {path.stem: read_model(path) for path in sorted((library_folder() / "models").glob("*.json"))}


@cache
def load_refused() -> dict[str, str]:
    """Models that are known and cannot be described, with the reason."""
    return json.loads((library_folder() / "refused.json").read_text(encoding="utf-8"))


def read_model(path: Path) -> ModelFacts:
    """Read the facts of one model.

    Raises:
        UserError: a file that holds no such facts, with the first thing that is wrong.
    """
    try:
        return ModelFacts.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise UserError(f"{path}: {where}: {first['msg']}") from None
