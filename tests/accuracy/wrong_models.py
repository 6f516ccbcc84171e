"""Wrong models, which the gate must reject: the trained one with one thing of its weights or its config changed.

To an engine that makes such a mistake the right files look like these to a right engine.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

MIDDLE = "model.layers.1."


@dataclass(frozen=True)
class WrongModel:
    """What is changed; the mistake of an engine that it stands for is its name."""

    name: str
    weights: Callable[[dict[str, Tensor]], None] | None = None
    config: Callable[[dict[str, Any]], None] | None = None
    is_subtle: bool = False
    """Whether it is among those that differ least, which are tried with every run of the tests."""

    def make(self, right: Path, folder: Path) -> Path:
        """Write the wrong model beside the right one."""
        shutil.copytree(right, folder, dirs_exist_ok=True)
        if self.config is not None:
            config = json.loads((right / "config.json").read_text())
            self.config(config)
            (folder / "config.json").write_text(json.dumps(config))
        if self.weights is not None:
            tensors = load_file(right / "model.safetensors")
            self.weights(tensors)
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder


def rope(theta: float) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        config["rope_parameters"]["rope_theta"] = theta

    return change


def set_to(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        assert config[key] != value
        config[key] = value

    return change


def swap_heads(name: str, first: int, second: int) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        heads = tensors[f"{MIDDLE}self_attn.{name}.weight"].unflatten(0, (-1, 32))
        heads[[first, second]] = heads[[second, first]].clone()

    return change


def swap_gate_and_up(tensors: dict[str, Tensor]) -> None:
    gate, up = f"{MIDDLE}mlp.gate_proj.weight", f"{MIDDLE}mlp.up_proj.weight"
    tensors[gate], tensors[up] = tensors[up], tensors[gate]


def roll_channels(tensors: dict[str, Tensor]) -> None:
    weight = tensors[f"{MIDDLE}mlp.down_proj.weight"]
    weight.copy_(weight.roll(1, 0))


def forget_attention(tensors: dict[str, Tensor]) -> None:
    tensors[f"{MIDDLE}self_attn.o_proj.weight"].zero_()


def other_weights(tensors: dict[str, Tensor]) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, tensor in tensors.items():
        if "norm" not in name:
            tensor.normal_(0.0, float(tensor.std()), generator=generator)


def stretch_projection(tensors: dict[str, Tensor]) -> None:
    tensors[f"{MIDDLE}self_attn.o_proj.weight"] *= 1.01


WRONG = (
    WrongModel("weights of another seed", weights=other_weights),
    WrongModel("a layer dropped", config=set_to("num_hidden_layers", 2)),
    WrongModel("rotary base 500000", config=rope(500000.0)),
    WrongModel("rotary base 1000", config=rope(1000.0)),
    WrongModel("rotary base 20000", config=rope(20000.0), is_subtle=True),
    WrongModel("epsilon of norms 1e-3", config=set_to("rms_norm_eps", 1e-3), is_subtle=True),
    WrongModel("query heads swapped", weights=swap_heads("q_proj", 1, 2), is_subtle=True),
    WrongModel("value heads swapped", weights=swap_heads("v_proj", 0, 1)),
    WrongModel("gate and up swapped", weights=swap_gate_and_up, is_subtle=True),
    WrongModel("channels of an MLP rolled", weights=roll_channels),
    WrongModel("attention of a layer left out", weights=forget_attention),
)
UNSEEN = WrongModel("an output projection 1 % too large", weights=stretch_projection)
"""Within what rounding to 16 bits does: no limit that lets a right engine through can reject it."""
