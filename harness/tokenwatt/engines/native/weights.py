"""Weights of the decoder: random on the device, or read from a Hugging Face safetensors folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tokenwatt.architecture import Architecture
from tokenwatt.errors import UserError

INIT_STD = 0.02
"""Spread of random weights; speed and nearly all of the power do not depend on it."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer; projections that read the same input are stacked so that one matmul serves them."""

    input_norm: torch.Tensor
    qkv_proj: torch.Tensor
    """[(Hq + 2 Hkv) D, H]"""
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    o_proj: torch.Tensor
    """[H, Hq D]"""
    post_attention_norm: torch.Tensor
    gate_up_proj: torch.Tensor
    """[2 I, H]"""
    down_proj: torch.Tensor
    """[H, I]"""


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """The whole decoder; with tied embeddings `lm_head` is `embedding`."""

    embedding: torch.Tensor
    """[vocab_size, H]"""
    layers: tuple[LayerWeights, ...]
    norm: torch.Tensor
    lm_head: torch.Tensor
    """[vocab_size, H]"""


Source = Callable[[str, tuple[int, ...]], torch.Tensor]
"""Gives the tensor of a Hugging Face parameter name, in the shape that the architecture demands."""


def random_weights(architecture: Architecture, dtype: torch.dtype, device: torch.device, seed: int) -> DecoderWeights:
    """Normal weights made on the device: the same seed gives the same weights on the same kind of device."""
    generator = torch.Generator(device).manual_seed(seed)

    def make(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=dtype, device=device)
        return torch.empty(shape, dtype=dtype, device=device).normal_(0.0, INIT_STD, generator=generator)

    return _assemble(architecture, make)


def load_weights(architecture: Architecture, folder: Path, dtype: torch.dtype, device: torch.device) -> DecoderWeights:
    """Read a safetensors folder (one file, or shards with an index).

    Raises:
        UserError: no such folder, a missing or damaged file, a missing tensor or one of another shape.
    """
    shards = _shards(folder)
    handles = {path: _open(path, device) for path in sorted(set(shards.values()))}

    def read(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name not in shards:
            raise UserError(f"{folder}: no tensor {name!r}; it is needed by architecture {architecture.name!r}")
        tensor = handles[shards[name]].get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise UserError(f"{folder}: tensor {name!r} has shape {tuple(tensor.shape)}, config.json demands {shape}")
        return tensor.to(dtype)

    return _assemble(architecture, read)


def _open(path: Path, device: torch.device) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt", device=str(device))
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be opened ({error})") from None


def check_weights(folder: Path) -> None:
    """Raise UserError unless `folder` looks like a safetensors folder; opens nothing large."""
    _shards(folder)


def _shards(folder: Path) -> dict[str, Path]:
    """Tensor name -> file."""
    if not folder.is_dir():
        raise UserError(f"no such weights folder: {folder}; allowed: 'random' or a folder with *.safetensors")
    if find_spec("safetensors") is None:
        raise UserError("reading weights needs safetensors; install it with: pip install 'tokenwatt[bench]'")
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    try:
        if index.is_file():
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return {name: folder / file for name, file in weight_map.items()}
        if single.is_file():
            with safe_open(single, framework="pt") as handle:
                return dict.fromkeys(handle.keys(), single)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: damaged weights ({error})") from None
    raise UserError(f"{folder}: holds neither model.safetensors nor model.safetensors.index.json")


def _assemble(architecture: Architecture, get: Source) -> DecoderWeights:
    """Ask `get` for every parameter of the architecture, and stack those that are used together."""
    a = architecture
    embedding = get("model.embed_tokens.weight", (a.vocab_size, a.hidden_size))

    def layer(index: int) -> LayerWeights:
        def part(name: str, *shape: int) -> torch.Tensor:
            return get(f"model.layers.{index}.{name}.weight", shape)

        return LayerWeights(
            input_norm=part("input_layernorm", a.hidden_size),
            qkv_proj=torch.cat(
                [
                    part("self_attn.q_proj", a.q_size, a.hidden_size),
                    part("self_attn.k_proj", a.kv_size, a.hidden_size),
                    part("self_attn.v_proj", a.kv_size, a.hidden_size),
                ]
            ),
            q_norm=part("self_attn.q_norm", a.head_dim) if a.has_qk_norm else None,
            k_norm=part("self_attn.k_norm", a.head_dim) if a.has_qk_norm else None,
            o_proj=part("self_attn.o_proj", a.hidden_size, a.q_size),
            post_attention_norm=part("post_attention_layernorm", a.hidden_size),
            gate_up_proj=torch.cat(
                [
                    part("mlp.gate_proj", a.intermediate_size, a.hidden_size),
                    part("mlp.up_proj", a.intermediate_size, a.hidden_size),
                ]
            ),
            down_proj=part("mlp.down_proj", a.hidden_size, a.intermediate_size),
        )

    layers = tuple(layer(index) for index in range(a.num_hidden_layers))
    norm = get("model.norm.weight", (a.hidden_size,))
    lm_head = embedding if a.tie_word_embeddings else get("lm_head.weight", (a.vocab_size, a.hidden_size))
    return DecoderWeights(embedding, layers, norm, lm_head)
