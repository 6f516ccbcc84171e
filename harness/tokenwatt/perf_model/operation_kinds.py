"""Which fitted multiplier an operation's time takes: one term for each kind of kernel and format."""

from __future__ import annotations

from tokenwatt.perf_model.operations import Operation

DECODE, PREFILL = 0, 1
"""Places of the two phases in arrays."""

FORMATS = ("bf16", "fp8", "nvfp4", "mxfp4", "mxfp4_fp8", "int4")
TERMS = (
    *(f"matmul.{name}" for name in FORMATS),
    *(f"experts.{name}" for name in FORMATS),
    "attention.decode",
    "latent.decode",
    "attention.prefill",
    "recurrence",
    "elementwise",
    "reduce",
    "exchange",
)
_ONE_BYTE = {"fp8_block": "fp8", "int8": "fp8"}
"""Formats that share a multiplier."""
_OF_KIND = {
    "attention.decode": "attention.decode",
    "latent.decode": "latent.decode",
    "attention.prefill": "attention.prefill",
    "latent.prefill": "attention.prefill",
    "recurrence.decode": "recurrence",
    "recurrence.prefill": "recurrence",
    "elementwise": "elementwise",
    "send": "reduce",
    "all_reduce": "reduce",
    "all_gather": "reduce",
    "all_to_all": "exchange",
}


def term_of(operation: Operation, dtype: str) -> str:
    """The entry of TERMS that an operation belongs to; dtype: what the system computes it in."""
    family = {"matmul": "matmul", "grouped_matmul": "experts"}.get(operation.kind)
    if family is None:
        return _OF_KIND[operation.kind]
    return f"{family}.{_ONE_BYTE.get(dtype, dtype)}"
