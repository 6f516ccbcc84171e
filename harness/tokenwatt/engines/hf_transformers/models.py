"""The model that transformers makes of the same config.json: weights made on the device at random, or read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import logging

from tokenwatt.engines.native.checkpoint import INIT_STD, find_tensors
from tokenwatt.engines.native.hub import CONFIG, fetch, find_weights
from tokenwatt.engines.native.loading import free_bytes
from tokenwatt.engines.native.memory import GB
from tokenwatt.errors import EngineError, UserError
from tokenwatt.model_config import locate
from tokenwatt.spec import BenchSpec


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What is to be loaded."""

    name: str
    """For people."""
    config: PretrainedConfig
    weights: Path | None
    """A folder; None for random ones."""
    dtype: torch.dtype
    attention: str
    """By transformers' name."""
    seed: int

    @classmethod
    def of(cls, spec: BenchSpec, name: str, attention: str) -> ModelSource:
        """Find config and weights; random weights are not quantised, whatever the config says.

        Raises:
            UserError: there are none, or transformers has no such model with such attention.
        """
        weights = None if spec.weights == "random" else find_weights(spec.weights)
        if weights is not None:
            find_tensors(weights)
        config = AutoConfig.from_pretrained(_config_folder(spec, weights), local_files_only=True)
        if weights is None:
            vars(config).pop("quantization_config", None)
        source = cls(name, config, weights, getattr(torch, spec.dtype), attention, spec.seed)
        source.skeleton()
        return source

    def skeleton(self) -> PreTrainedModel:
        """The model without memory behind its tensors.

        Raises:
            UserError: transformers refuses it, or the attention that is asked for.
        """
        try:
            with torch.device("meta"):
                return self._empty()
        except (ValueError, ImportError, KeyError) as error:  # attention that the model, or this machine, does not have
            raise UserError(
                f"transformers cannot run {self.name} with attn_implementation {self.attention!r}:"
                f" {_first_line(error)}; take another, such as sdpa or eager"
            ) from None

    def load(self, device: torch.device) -> PreTrainedModel:
        """The model on its device, ready to serve, with a generation config that says nothing.

        Raises:
            EngineError: the weights do not fit.
            UserError: the weights folder does not hold this model.
        """
        need, free = sum(map(_bytes_of, self.skeleton().parameters())), free_bytes(device)
        if need > free:
            raise EngineError(f"{self.name} needs {need / GB:.2f} GB for its weights, {free / GB:.2f} GB are free")
        model = self._random(device) if self.weights is None else self._saved(device, self.weights)
        # A checkpoint's own defaults, such as a top_p or tokens that end a request, are not the workload's.
        model.generation_config = GenerationConfig()
        return model.eval().requires_grad_(requires_grad=False)

    def _empty(self) -> PreTrainedModel:
        return AutoModelForCausalLM.from_config(self.config, dtype=self.dtype, attn_implementation=self.attention)

    def _random(self, device: torch.device) -> PreTrainedModel:
        """Normal numbers of the spread that engine `native` has; norms stay as transformers makes them."""
        with torch.device(device), no_init_weights():
            model = self._empty()
        model.tie_weights()
        generator = torch.Generator(device).manual_seed(self.seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.endswith("norm.weight"):
                    parameter.normal_(0.0, INIT_STD, generator=generator)
        return model

    def _saved(self, device: torch.device, weights: Path) -> PreTrainedModel:
        logging.disable_progress_bar()
        model, found = AutoModelForCausalLM.from_pretrained(
            weights, config=self.config, dtype=self.dtype, attn_implementation=self.attention, local_files_only=True,
            ignore_mismatched_sizes=True, output_loading_info=True,
        )  # fmt: skip
        # What is missing, or of another shape, transformers makes up.
        made_up = sorted({*found["missing_keys"], *(entry[0] for entry in found["mismatched_keys"])})
        if made_up:
            raise UserError(
                f"{weights}: no tensor {made_up[0]!r} of the shape that the config.json demands; take weights and"
                " config.json of one model"
            )
        return model.to(device)


def _config_folder(spec: BenchSpec, weights: Path | None) -> Path:
    """Folder of the config.json: that of the model, or where none is named that of the weights."""
    if spec.model is not None:
        known = locate(spec.model)
        return known or fetch(spec.model, CONFIG, "give a model of the library, or a folder with its config.json")
    assert weights is not None, "find_architecture refuses random weights without a model"
    return weights


def _bytes_of(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
