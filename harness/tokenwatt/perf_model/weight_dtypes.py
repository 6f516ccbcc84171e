"""What the weights of a served model are stored in, by its label and its name."""

from __future__ import annotations

import re

from tokenwatt.errors import UserError, unknown_name
from tokenwatt.reference.facts import FactBook
from tokenwatt.reference.systems import load_system

_CANONICAL = {
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "fp16": "float16",
    "float16": "float16",
    "half": "float16",
    "fp8": "fp8",
    "fp8_e4m3": "fp8",
    "fp8_block": "fp8",
    "fp4": "fp4",
    "nvfp4": "fp4",
    "mxfp4": "mxfp4",
    "int4": "int4",
    "w4a16": "int4",
    "int8": "int8",
}
_IN_NAME = {"nvfp4": "fp4", "fp4": "fp4", "fp8": "fp8", "mxfp4": "mxfp4", "int4": "int4", "awq": "int4", "gptq": "int4"}
_MXFP4_MODELS = re.compile(r"gpt-oss", re.IGNORECASE)


def weight_dtype_of(model: str, label: str | None, system: str, facts: FactBook | None = None) -> str:
    """Canonical name of a model's weight format; without a label what the model's name says, else bfloat16.

    gpt-oss is published in MXFP4 only: rows that call it fp4 or fp8 mean that. MXFP4 and int4 are unpacked on the way
    to the tensor cores, so any system runs them; fp8 and fp4 weights need a system with a peak for them.

    Raises:
        UserError: an unknown label, or a format that the system has no tensor cores for.
    """
    if label is not None and label.casefold() not in _CANONICAL:
        raise unknown_name("weight_dtype", label, _CANONICAL)
    if _MXFP4_MODELS.search(model):
        return "mxfp4"
    found = _of_name(model) if label is None else _CANONICAL[label.casefold()]
    if found in ("fp8", "fp4") and not _has_peak(system, found, facts):
        raise UserError(f"{system} has no tensor cores for weight_dtype {label or found!r}")
    return found


def compute_dtype_of(weight_dtype: str, system: str, facts: FactBook | None = None) -> str:
    """What the tensor cores of a system multiply weights of that format in."""
    if weight_dtype == "mxfp4":
        return "fp4" if _has_peak(system, "fp4", facts) else "bfloat16"
    return {"int4": "bfloat16", "int8": "fp8", "float16": "bfloat16"}.get(weight_dtype, weight_dtype)


def _of_name(model: str) -> str:
    words = re.split(r"[-_/.\s]+", model.casefold())
    return next((_IN_NAME[word] for word in reversed(words) if word in _IN_NAME), "bfloat16")


def _has_peak(system: str, dtype: str, facts: FactBook | None) -> bool:
    try:
        load_system(system, facts).flop_per_s(dtype)
    except UserError:
        return False
    return True
