"""Runs inside an interpreter that has `aiconfigurator-core`: a case as a line of JSON in, its estimate as one out.

It imports nothing of tokenwatt. Times of the package are in ms and its rates per second; answers are in SI.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import math
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

_GEMM = {"bfloat16": "bfloat16", "float16": "bfloat16", "int4": "int4_wo", "fp4": "nvfp4", "fp8": "fp8"}
_BLOCK_SCALED = re.compile(r"deepseek|qwen|minimax|glm|kimi")
"""Families whose fp8 checkpoints have a scale for each block of weights."""
_TUNED = re.compile(r"-(instruct|it|chat|thinking|base|fp8|fp4|nvfp4|bf16|int4|\d{4})$")
_SAME = {"deepseek-r1": "deepseek-v3", "deepseek-v3.1": "deepseek-v3", "llama-3.3-70b": "llama-3.1-70b"}
"""Models of one shape."""


def main() -> None:
    """Answer every line of standard input."""
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        # The package warns on standard output, too; only answers may stand there.
        with contextlib.redirect_stdout(io.StringIO()):
            answer = _answer(json.loads(line))
        print(json.dumps(answer), flush=True)


def _answer(case: dict[str, Any]) -> dict[str, Any]:
    if not case["concurrency"]:
        return {"reason": "it estimates a given batch, not an offline maximum"}
    try:
        return _estimate(case)
    except Exception as error:  # whatever the package cannot do is the answer: it raises errors of many kinds
        words = " ".join(str(error).split()) or type(error).__name__
        return {"reason": words[:200]}


def _estimate(case: dict[str, Any]) -> dict[str, Any]:
    name = _checkpoint(case["model"], case["weight_dtype"])
    if name is None:
        return {"reason": f"it has no configuration of {case['model']}"}
    database = _database(case["system"], case["engine"])
    modes = _modes(name, case)
    shares = tuple(case[key] for key in ("attention_tp", "pp", "attention_dp", "moe_tp", "moe_ep"))
    model, backend = _model(name, case["system"], case["engine"], shares, tuple(sorted(modes.items())))
    isl, osl = round(case["isl"]), round(case["osl"])
    batch = max(round(case["concurrency"] / case["attention_dp"]), 1)
    runtime = _sdk("config").RuntimeConfig(batch_size=batch, isl=isl, osl=osl)
    # One prompt at a time goes into a step beside the decodes, as its own sweeps begin.
    result = backend.run_agg(model, database, runtime, ctx_tokens=isl).get_result_dict()
    numbers = {
        "output_tokens_per_s_per_gpu": result["tokens/s/gpu"],
        "tpot_s": result["tpot"] / 1e3,
        "ttft_s": result["ttft"] / 1e3,
        "gpu_power_w": result["power_w"],
    }
    found = {key: float(value) for key, value in numbers.items() if math.isfinite(value) and value > 0}
    return found or {"reason": "it has no number for this case"}


def _modes(name: str, case: dict[str, Any]) -> dict[str, str]:
    """What the package is told of precision: nothing where its checkpoint says it, or for gpt-oss, which has one."""
    if case["weight_dtype"] == "mxfp4" or _precision(name) == case["weight_dtype"]:
        return {}
    mode = _GEMM[case["weight_dtype"]]
    if mode == "fp8" and _BLOCK_SCALED.search(name.casefold()):
        mode = "fp8_block"
    return {"gemm_quant_mode": mode, "moe_quant_mode": mode}


@cache
def _model(name: str, system: str, engine: str, shares: tuple[int, ...], modes: tuple[tuple[str, str], ...]) -> Any:
    """A model, and a backend of its own: a backend keeps answers by lengths and batch, whatever the model."""
    builders, models, helpers = _sdk("config_builders"), _sdk("models"), _sdk("models.helpers")
    config = builders.build_model_config(*shares, **dict(modes))
    helpers.resolve_nvfp4_for_system(config, system, name, backend_name=engine)
    helpers.resolve_context_fmha_by_data(config, name, _database(system, engine), engine, is_context_role=True)
    return models.get_model(name, config, engine), _sdk("backends.factory").get_backend(engine)


@cache
def _database(system: str, engine: str) -> Any:
    databases = _sdk("perf_database")
    version = databases.get_latest_database_version(system, engine)
    database = None if version is None else databases.get_database(system, engine, version)
    if database is None:
        raise ValueError(f"it has no tables of {engine} on {system}")
    return database


@cache
def _checkpoint(model: str, weight_dtype: str) -> str | None:
    """The package's model of that shape: of the same precision if it has one, else in bfloat16."""
    folder = Path(str(importlib.import_module("aiconfigurator_core").__file__)).parent / "model_configs"
    files = sorted(path.name for path in folder.glob("*_config.json") if "_hf_quant_" not in path.name)
    names = [name.removesuffix("_config.json").replace("--", "/") for name in files]
    same = [name for name in names if _shape(name) == _shape(model)]
    same.sort(key=lambda name: (_precision(name) != weight_dtype, _precision(name) != "bfloat16", name != model))
    return same[0] if same else None


def _shape(model: str) -> str:
    name = model.rsplit("/", 1)[-1].casefold().removeprefix("meta-")
    while (shorter := _TUNED.sub("", name)) != name:
        name = shorter
    return _SAME.get(name, name)


def _precision(name: str) -> str:
    """Precision of a checkpoint of the package, by its name; DeepSeek and MiniMax publish fp8 without saying so."""
    short = name.casefold()
    if "nvfp4" in short:
        return "fp4"
    if "fp8" in short or re.search(r"deepseek-(v3|r1)|minimax", short):
        return "fp8"
    return "int4" if "kimi-k2.5" in short else "bfloat16"


def _sdk(module: str) -> Any:
    return importlib.import_module(f"aiconfigurator_core.sdk.{module}")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
