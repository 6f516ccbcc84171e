"""The same cases on every system: five models, three workloads of the library, two loads."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from tokenwatt.perf_model.cases import Cases, check_cases
from tokenwatt.reference.systems import load_system
from tokenwatt.workloads.lengths import LognormalLength
from tokenwatt.workloads.library import load_workload

MODELS = (
    ("meta-llama/Llama-3.1-8B-Instruct", 1, ("bf16", "fp8", "fp4")),
    ("meta-llama/Llama-3.1-70B-Instruct", 4, ("bf16", "fp8", "fp4")),
    ("Qwen/Qwen3-30B-A3B", 1, ("bf16", "fp8", "fp4")),
    ("openai/gpt-oss-120b", 1, ("mxfp4",)),
    ("deepseek-ai/DeepSeek-R1", 8, ("fp8", "fp4")),
)
"""Model, GPUs, formats of its weights."""
WORKLOADS = ("chat", "summarise", "reason")
IN_FLIGHT_PER_GPU = (16, 128)
ENGINE = "vllm"
_PEAK_OF = {"bf16": "bfloat16", "fp8": "fp8", "fp4": "fp4", "mxfp4": "bfloat16"}
_DRAWS = 2000


@cache
def mean_lengths(workload: str) -> tuple[int, int]:
    """Mean tokens in and out of a workload of the library."""
    found = load_workload(workload)
    return _mean(found.input), _mean(found.output)


def _mean(length: Any) -> int:
    """Mean of a length as it is drawn: rounded, then cut off."""
    if not isinstance(length, LognormalLength):
        return int(length.tokens)
    shares = (np.arange(_DRAWS) + 0.5) / _DRAWS
    drawn = np.rint(length.median * np.exp(length.sigma * norm.ppf(shares)))
    return round(float(np.clip(drawn, length.min, length.max).mean()))


def named_cases(system: str) -> Cases:
    """The cases of a system, in the formats that it has."""
    spec = load_system(system)
    lines = []
    for (model, gpus, formats), workload, load in product(MODELS, WORKLOADS, IN_FLIGHT_PER_GPU):
        isl, osl = mean_lengths(workload)
        lines += [
            {
                "case_id": f"{model.split('/')[-1]} {dtype}, {workload}, {load * gpus}",
                "model": model,
                "gpu": system,
                "num_gpus": gpus,
                "tp": gpus,
                "engine": ENGINE,
                "weight_dtype": dtype,
                "isl": isl,
                "osl": osl,
                "concurrency": load * gpus,
                "workload": workload,
            }
            for dtype in formats
            if spec.has_peak(_PEAK_OF[dtype])
        ]
    return check_cases(pd.DataFrame(lines))
