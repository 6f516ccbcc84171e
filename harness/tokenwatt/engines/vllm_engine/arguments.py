"""From a bench to the arguments that vLLM is started with."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, fields, replace
from math import prod
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.usage.usage_lib import UsageContext

from tokenwatt.architecture import Architecture
from tokenwatt.engines.native.hub import CONFIG, fetch, find_architecture, find_weights
from tokenwatt.engines.vllm_engine.options import VllmOptions
from tokenwatt.engines.vllm_engine.worker import WORKER_EXTENSION
from tokenwatt.errors import UserError, unknown_name
from tokenwatt.model_config import load_architecture, locate
from tokenwatt.spec import BenchSpec

KNOWN = frozenset(field.name for field in fields(AsyncEngineArgs) if not field.name.startswith("_"))
"""Arguments of this vLLM."""
SEEDS = 2**32
"""numpy, which vLLM seeds too, takes no larger ones."""

_SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
"""Their product is how many GPUs vLLM takes."""
_NAMED = {
    "tensor_parallel_size": "tensor_parallel",
    **{name: name for name in VllmOptions.model_fields if name not in ("tensor_parallel", "engine_args")},
}
"""Arguments of vLLM that have an option of their own."""
_BY_BENCH = "the bench, or the engine itself, decides it; leave it out"
_DECIDED = {
    **dict.fromkeys(("model", "dtype", "load_format", "seed", "tokenizer", "worker_extension_cls"), _BY_BENCH),
    "hf_token": "what stands there is recorded with the results; set HF_TOKEN in the environment",
    "logprobs_mode": "the accuracy gate needs log-probabilities, which are vLLM's default; leave it out",
}
"""Arguments that follow from the bench, that this engine needs, or that must not be recorded; and what to do."""
_COUNTS = ("max_model_len", *_SIZES)
"""Arguments that this engine reckons with itself, whatever else vLLM would take for them."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """Everything but how long requests are, which is known when the engine is loaded."""

    values: dict[str, Any]
    """By vLLM's names."""
    folder: tempfile.TemporaryDirectory[str] | None
    """Holds the config.json of a model with random weights as long as it is needed."""

    @classmethod
    def of(cls, spec: BenchSpec, options: VllmOptions) -> Arguments:
        """Find config and weights.

        Raises:
            UserError: there are none, or an argument that vLLM does not have, that has another place, or is no count.
        """
        _check_names(options.engine_args)
        _check_counts(options.engine_args)
        is_random = spec.weights == "random"
        folder = _random_model(spec, options) if is_random else None
        model = folder.name if folder else str(find_weights(spec.weights))
        named = {theirs: getattr(options, ours) for theirs, ours in _NAMED.items()}
        values = {
            "model": model,
            "dtype": spec.dtype,
            "load_format": "dummy" if is_random else "safetensors",
            "seed": spec.seed % SEEDS,
            "skip_tokenizer_init": True,
            "disable_log_stats": True,
            "worker_extension_cls": WORKER_EXTENSION,
            **{name: value for name, value in named.items() if value is not None},
            **options.engine_args,
        }
        return cls(values, folder)

    def config(self, longest_context: int | None = None) -> VllmConfig:
        """What vLLM makes of the arguments on this machine, with the defaults that its server has.

        longest_context: tokens; None means the model's.

        Raises:
            UserError: vLLM refuses them.
        """
        values = {"max_model_len": longest_context} | self.values
        try:
            return AsyncEngineArgs(**values).create_engine_config(UsageContext.OPENAI_API_SERVER)
        except (ValidationError, ValueError, NotImplementedError, TypeError) as error:
            raise UserError(f"engine 'vllm' cannot be started so: {_first_line(error)}") from None

    def close(self) -> None:
        """Remove what was written for vLLM."""
        if self.folder is not None:
            self.folder.cleanup()

    @property
    def gpus(self) -> int:
        """GPUs that vLLM takes, if it runs on such."""
        return prod(self.values.get(size, 1) for size in _SIZES)

    @property
    def longest_context(self) -> int | None:
        """Tokens, where the bench says so itself."""
        return self.values.get("max_model_len")


def _check_names(engine_args: dict[str, Any]) -> None:
    for name in engine_args:
        if name in _DECIDED:
            raise UserError(f"engine_args cannot set {name!r}: {_DECIDED[name]}")
        if name in _NAMED:
            raise UserError(f"engine_args cannot set {name!r}: it is the option {_NAMED[name]!r}; write it there")
        if name not in KNOWN:
            raise unknown_name("argument of vLLM in engine_args", name, KNOWN)


def _check_counts(engine_args: dict[str, Any]) -> None:
    for name in _COUNTS:
        value = engine_args.get(name, 1)
        if type(value) is not int or value < 1:  # True is an int too
            raise UserError(f"{name} in engine_args must be a whole number of 1 or more, without quotes; got {value!r}")


def architecture_of(spec: BenchSpec) -> Architecture:
    """The model's shape. How its weights are quantised is vLLM's affair, which knows more formats than tokenwatt.

    Raises:
        UserError: no such model, or one that tokenwatt does not know.
    """
    if (spec.model or spec.weights) == "random":
        return find_architecture(spec.model, spec.weights, spec.engine)  # which says what is missing
    config = _config(spec)
    if config.pop("quantization_config", None) is None:
        return find_architecture(spec.model, spec.weights, spec.engine)
    with _folder_of(config) as folder:
        return replace(load_architecture(folder), name=spec.model or spec.weights)


def _random_model(spec: BenchSpec, options: VllmOptions) -> tempfile.TemporaryDirectory[str]:
    """A folder with the model's config.json alone; random weights are not quantised unless an option says so."""
    config = _config(spec)
    if options.quantization is None:
        config.pop("quantization_config", None)
    return _folder_of(config)


def _config(spec: BenchSpec) -> dict[str, Any]:
    """What the model's config.json holds."""
    if spec.model is None:
        folder = find_weights(spec.weights)
    else:
        what_else = "give a model of the library, or a folder with its config.json"
        folder = locate(spec.model) or fetch(spec.model, CONFIG, what_else)
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'}: cannot be read as JSON ({error})") from None


def _folder_of(config: dict[str, Any]) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="tokenwatt-vllm-")
    (Path(folder.name) / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _first_line(error: Exception) -> str:
    """What is wrong, without pydantic's heading."""
    if isinstance(error, ValidationError):
        return error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ").splitlines()[0]
    return next(iter(str(error).splitlines()), type(error).__name__)
