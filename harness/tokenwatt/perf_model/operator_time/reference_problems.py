"""A few problems of serving for each operator, on which curves of different systems are held against each other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import product

import numpy as np

from tokenwatt.perf_model.operator_time.operators import operator_of
from tokenwatt.perf_model.operator_time.routing import rank_load
from tokenwatt.perf_model.operator_time.work import Shape

_LAYER = {"heads": (8, 32), "kv_heads": (1, 4), "head_dim": (128,), "window": (0,)}
_GRIDS: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "matmul": {"m": (1, 16, 128, 1024, 8192), "n": (1024, 4096, 14336), "k": (1024, 4096, 14336)},
    "attention.prefill": {"batch": (1, 8), "tokens": (256, 2048, 8192), "prefix": (0,), **_LAYER},
    "attention.decode": {"batch": (1, 16, 128), "context": (512, 4096, 32768), **_LAYER},
    "latent.prefill": {
        "batch": (1, 8),
        "tokens": (256, 2048, 8192),
        "prefix": (0,),
        "heads": (16, 128),
        "qk_head_dim": (192,),
        "v_head_dim": (128,),
    },
    "latent.decode": {
        "batch": (1, 16, 128),
        "context": (512, 4096, 32768),
        "heads": (16, 128),
        "latent_dim": (512,),
        "rotary_dim": (64,),
    },
    "grouped_matmul": {
        "tokens": (1, 16, 128, 1024, 8192),
        "hidden": (2048, 7168),
        "intermediate": (512, 2048),
        "top_k": (8,),
        "experts": (128, 256),
        "ep": (1, 8),
    },
    "linear_attention.prefill": {
        "batch": (1, 8),
        "tokens": (256, 2048, 8192),
        "key_heads": (4, 16),
        "value_heads": (16, 32),
        "key_dim": (128,),
        "value_dim": (128,),
    },
    "linear_attention.decode": {
        "batch": (1, 16, 128),
        "key_heads": (4, 16),
        "value_heads": (16, 32),
        "key_dim": (128,),
        "value_dim": (128,),
    },
}
_MESSAGES = tuple(float(2**power) for power in range(12, 27, 2))


@lru_cache(maxsize=256)
def reference_problems(operator: str) -> Shape:
    """Shape of the problems of an operator, by its full name."""
    family = operator_of(operator)
    if family.kind == "collective":
        return {"bytes": np.array(_MESSAGES), "gpus": np.full(len(_MESSAGES), float(operator.rpartition(".")[2]))}
    grid = _GRIDS[family.name]
    columns = np.array(list(product(*grid.values())), dtype=np.float64).T
    shape = dict(zip(grid, columns, strict=True))
    if family.name == "grouped_matmul":
        load = rank_load(shape["tokens"], shape["experts"], shape["top_k"], shape["ep"], "uniform")
        shape["copies"], shape["touched"] = load
    return shape
