"""The library of model shapes: what a predictor has to know of a model, found by any name that people give it.

`names` matches spellings, `facts` reads `models/*.json`, `families` knows the families beyond those of the native
engine, `reading` turns a `config.json` into a shape. README.md says how to add a model.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from tokenwatt.errors import UserError, unknown_name
from tokenwatt.perf_model.shape import ModelShape
from tokenwatt.perf_model.shape_library.facts import WeightDtype, load_models, load_refused
from tokenwatt.perf_model.shape_library.names import by_spelling, spellings
from tokenwatt.perf_model.shape_library.reading import dtype_of_folder, shape_of_facts, shape_of_folder

__all__ = ["WeightDtype", "library_names", "model_family", "model_shape", "native_weight_dtype"]


def library_names() -> tuple[str, ...]:
    """Every name that `model_family` can answer of the library, sorted."""
    return tuple(sorted(load_models()))


def model_shape(model: str) -> ModelShape:
    """Shape of a model: of a folder that holds a `config.json`, or of the library by any of its names.

    Raises:
        UserError: no such model, one that cannot be described (with the reason), or a `config.json` that is wrong.
    """
    folder = _folder(model)
    return shape_of_folder(folder) if folder else _library_shape(model_family(model))


def model_family(model: str) -> str:
    """Name under which the library has a model: one for all releases of a shape. Of a folder, the folder's name.

    Raises:
        UserError: no such model, or one that cannot be described (with the reason).
    """
    folder = _folder(model)
    if folder:
        return folder.resolve().name
    # A path that leads nowhere is no model that happens to be called like its last part.
    tried = spellings(model) if model.count("/") <= 1 and not model.startswith(("/", ".", "~")) else []
    for spelling in tried:
        if spelling in _refused():
            name = _refused()[spelling]
            raise UserError(f"model {model!r} cannot be predicted: {load_refused()[name]}")
        if spelling in _known():
            return _known()[spelling]
    raise unknown_name("model", model, library_names())


def native_weight_dtype(model: str) -> WeightDtype:
    """How the published weights of a model are stored: what runs where a case names no precision.

    Raises:
        UserError: as `model_shape`.
    """
    folder = _folder(model)
    return dtype_of_folder(folder) if folder else load_models()[model_family(model)].native_weight_dtype


def _folder(model: str) -> Path | None:
    # Not `Path.is_file`, which raises where a name is too long for a file system.
    found = bool(model) and os.path.isfile(Path(model) / "config.json")  # noqa: PTH113
    return Path(model) if found else None


@cache
def _library_shape(name: str) -> ModelShape:
    return shape_of_facts(name, load_models()[name])


@cache
def _known() -> dict[str, str]:
    return by_spelling({name: facts.aliases for name, facts in load_models().items()})


@cache
def _refused() -> dict[str, str]:
    return by_spelling({name: [] for name in load_refused()})
