"""What the weights of a served model are stored in, by its label, its name and what its makers published."""

from __future__ import annotations

import re

from tokenwatt.errors import UserError, unknown_name
from tokenwatt.perf_model.shape_library import native_weight_dtype
from tokenwatt.reference.facts import FactBook
from tokenwatt.reference.systems import load_system

_CANONICAL = {
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "fp16": "float16",
    "float16": "float16",
    "fp8": "fp8",
    "fp8_e4m3": "fp8",
    "fp8_block": "fp8",
    "fp4": "fp4",
    "nvfp4": "fp4",
    "mxfp4": "mxfp4",
    "int4": "int4",
    "int8": "int8",
}
_IN_NAME = {"nvfp4": "fp4", "fp4": "fp4", "fp8": "fp8", "mxfp4": "mxfp4", "int4": "int4", "awq": "int4", "gptq": "int4"}
_NATIVE = {"bf16": "bfloat16", "fp8_block": "fp8", "mxfp4_experts": "mxfp4", "int4_experts": "int4"}


def weight_dtype_of(model: str, label: str | None, system: str, facts: FactBook | None = None) -> str:
    """Canonical name of a model's weight format; without a label that of its name (Qwen3-32B-FP8), else the published.

    A model that is published in MXFP4 (gpt-oss) is MXFP4 under any label: rows call it fp4 or fp8. MXFP4 and int4 are
    unpacked on the way to the tensor cores, so that any system runs them; fp8 and fp4 need a system with a peak in it.

    Raises:
        UserError: an unknown model or label, or a format that the system has no tensor cores for.
    """
    if label is not None and label.casefold() not in _CANONICAL:
        raise unknown_name("weight_dtype", label, _CANONICAL)
    native = _NATIVE[native_weight_dtype(model)]
    if native == "mxfp4":
        return native
    found = (_of_name(model) or native) if label is None else _CANONICAL[label.casefold()]
    if found in ("fp8", "fp4") and not _has_peak(system, found, facts):
        raise UserError(f"{system} has no tensor cores for weight_dtype {label or found}")
    return found


def compute_dtype_of(weight_dtype: str, system: str, facts: FactBook | None = None) -> str:
    """What the tensor cores of a system multiply weights of that format in."""
    wanted = {"mxfp4": "fp4", "int8": "fp8"}.get(weight_dtype)
    if wanted is not None:
        return wanted if _has_peak(system, wanted, facts) else "bfloat16"
    return {"int4": "bfloat16", "float16": "bfloat16"}.get(weight_dtype, weight_dtype)


def _of_name(model: str) -> str | None:
    words = re.split(r"[-_/.\s]+", model.casefold())
    return next((_IN_NAME[word] for word in reversed(words) if word in _IN_NAME), None)


def _has_peak(system: str, dtype: str, facts: FactBook | None) -> bool:
    try:
        load_system(system, facts).flop_per_s(dtype)
    except UserError:
        return False
    return True
