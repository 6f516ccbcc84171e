"""Speed at the data sheet's ceilings, of which the constant baseline takes a fraction. Nothing in it is fitted.

One decode step of an instance of n GPUs reads the weights that its requests touch and their cache of a mean context,
and multiplies; one prefill multiplies. With bandwidth B and peak P of one GPU:

    step    = max((weights(R) * size + R * cache) / (n * B), R * flop / (n * P))       TPOT
    cycle   = osl * step + R * isl * flop / (n * P)
    speed   = R * osl / (cycle * n)                                                    output tokens/s per GPU

with R requests in flight, cache of isl + osl / 2 tokens in bfloat16 (no more than a window), and flop twice the weights
that one token is multiplied with; all weights are taken to be of the case's precision. Where R is not given it is what
fits: the memory that is left beside the weights over the cache of isl + osl tokens.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from tokenwatt.architecture import GroupedAttention, LatentAttention
from tokenwatt.perf_model.precision import weight_bytes_of
from tokenwatt.perf_model.shape import ModelShape
from tokenwatt.perf_model.shape_library import model_shape
from tokenwatt.perf_model.weight_dtypes import compute_dtype_of
from tokenwatt.reference.facts import FactBook
from tokenwatt.reference.systems import load_system

_STORED = {"bfloat16": "bf16", "float16": "bf16", "int8": "fp8", "fp4": "nvfp4"}
_CACHE_BYTES = weight_bytes_of("bf16")


def ceilings(cases: pd.DataFrame, facts: FactBook | None = None) -> pd.DataFrame:
    """`output_tokens_per_s_per_gpu` and `tpot_s` of valid cases at the ceilings; NaN where the weights do not fit."""
    rows = [_ceiling(case, facts) for case in cases.to_dict("records")]
    return pd.DataFrame(rows, index=cases.index, columns=["output_tokens_per_s_per_gpu", "tpot_s"], dtype="float64")


def _ceiling(case: dict[Any, Any], facts: FactBook | None) -> tuple[float, float]:
    shape, spec = model_shape(case["model"]), load_system(case["system"], facts)
    dtype = case["weight_dtype"]
    gpus, isl, osl, size = case["num_gpus"], case["isl"], case["osl"], weight_bytes_of(_STORED.get(dtype, dtype))
    bandwidth = gpus * spec.hbm_bytes_per_s.value
    peak = gpus * spec.flop_per_s(compute_dtype_of(dtype, case["system"], facts)).value
    requests = case["concurrency"]
    if math.isnan(requests):
        left = gpus * spec.hbm_bytes.value - shape.matmul_parameters * size
        requests = left / _cache_bytes(shape, isl + osl)
        if requests < 1:
            return math.nan, math.nan
    flop = 2 * shape.active_matmul_parameters
    read = _touched(shape, requests) * size + requests * _cache_bytes(shape, isl + osl / 2)
    step_s = max(read / bandwidth, requests * flop / peak)
    cycle_s = osl * step_s + requests * isl * flop / peak
    return requests * osl / cycle_s / gpus, step_s


def _touched(shape: ModelShape, tokens: float) -> float:
    """Weights that a step over that many tokens multiplies with."""
    h = shape.hidden_size
    return shape.head_parameters + sum(
        count
        * (
            block.always_parameters(h)
            + (block.experts.touched(tokens) * block.expert_parameters(h) if block.experts else 0.0)
        )
        for block, count in shape.counted.items()
    )


def _cache_bytes(shape: ModelShape, context: float) -> float:
    """Cache of one request, over all layers that have one that grows; at least one byte."""
    cached = sum(
        count * block.mixer.cached_size * min(context, block.window or context)
        for block, count in shape.counted.items()
        if isinstance(block.mixer, GroupedAttention | LatentAttention)
    )
    return max(cached * _CACHE_BYTES, 1.0)
