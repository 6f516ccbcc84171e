"""Engine `hf_transformers`: the same greedy tokens as engine `native`, from the same files, in both modes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.engines.families import CONFIGS, VOCABULARY, make
from transformers import GenerationConfig
from transformers.generation.continuous_batching import cache

from tokenwatt.engines import open_engine
from tokenwatt.engines.hf_transformers.engine import HfEngine
from tokenwatt.engines.native.accounting import Accounting
from tokenwatt.engines.protocol import Engine, TokenEvent
from tokenwatt.errors import EngineError, UserError
from tokenwatt.model_config import load_architecture
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import Request, Sampling

MODES = ["generate", "continuous_batching"]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# Gemma 3 is left out: transformers does not hand over the softcap of its config. gpt-oss has sinks, which sdpa has not.
FAMILIES = {"llama": "sdpa", "qwen3": "sdpa", "mistral": "eager", "qwen3-moe": "sdpa", "gpt-oss": "eager"}


def requests(lengths: tuple[int, ...] = (5, 16, 40, 7, 1, 33), osl: int = 12, **changes: Any) -> list[Request]:
    """Each has one token less to come than the one before."""
    rng = np.random.default_rng(1)
    return [
        Request(index, rng.integers(0, VOCABULARY, size, dtype=np.int32), osl - index, **changes)
        for index, size in enumerate(lengths)
    ]


def spec(folder: Path, name: str = "hf_transformers", device: Any = "cpu", **changes: Any) -> BenchSpec:
    settings = {"model": str(folder), "weights": str(folder), "dtype": "float32", **changes}
    return BenchSpec(engine=name, device=device, workloads=("chat",), concurrency=(3,), **settings)


def loaded(bench: BenchSpec, concurrency: int = 3, longest: int = 96) -> Engine:
    engine = open_engine(bench)
    engine.load(concurrency, longest)
    return engine


class Ticks:
    """A clock that moves on by one second whenever it is read."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def events_of(engine: Engine, asked: Sequence[Request], concurrency: int = 3) -> list[TokenEvent]:
    return list(engine.serve(iter(asked), concurrency, Ticks()))


def tokens_of(events: list[TokenEvent]) -> dict[int, tuple[int, ...]]:
    tokens: dict[int, tuple[int, ...]] = defaultdict(tuple)
    for event in events:
        assert event.refusal is None
        tokens[event.request_index] += event.token_ids
    return dict(tokens)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny llama, saved."""
    folder = tmp_path_factory.mktemp("llama")
    make("llama", folder)
    return folder


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_engine_native(family, mode, kind, tmp_path):
    make(family, tmp_path)
    asked = requests()
    ours = tokens_of(events_of(loaded(spec(tmp_path, "native", kind)), asked))
    options = {"mode": mode, "attn_implementation": FAMILIES[family]}
    theirs = tokens_of(events_of(loaded(spec(tmp_path, device=kind, options=options)), asked))
    assert theirs == ours
    assert {index: len(tokens) for index, tokens in theirs.items()} == {index: 12 - index for index in range(6)}
