"""Engines for a folder of weights, on a processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tokenwatt.engines import open_engine
from tokenwatt.engines.protocol import Engine, scorer_of
from tokenwatt.spec import BenchSpec


def spec_of(folder: Path, engine: str = "native", dtype: Any = "float32", **changes: Any) -> BenchSpec:
    """A bench of saved weights; `changes` replace its keys."""
    keys = {
        "engine": engine,
        "model": str(folder),
        "weights": str(folder),
        "dtype": dtype,
        "device": "cpu",
        "workloads": ("chat-smoke",),
        "concurrency": (2,),
        "options": {"mode": "generate"} if engine == "hf_transformers" else {},
    }
    return BenchSpec.model_validate({**keys, **changes})


def loaded(spec: BenchSpec, longest_context: int = 128) -> Engine:
    """The engine of a bench, loaded."""
    engine = open_engine(spec)
    engine.load(2, longest_context)
    return engine


def scored(spec: BenchSpec, prompts: list[np.ndarray]) -> list[np.ndarray]:
    """What the engine of a bench says of these prompts."""
    engine = loaded(spec)
    scorer = scorer_of(engine)
    assert scorer is not None
    found = scorer.prompt_logprobs(prompts)
    engine.close()
    return found
