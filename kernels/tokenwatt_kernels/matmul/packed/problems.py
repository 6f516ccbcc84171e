"""Shapes of matmuls with a packed weight: small odd ones for the gate, the layers of real models for the bench."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwatt_kernels.matmul.problem import COPY_BYTES
from tokenwatt_kernels.matmul.shapes import LLAMA_8B, LLAMA_70B

DTYPE_NAMES = ("float16", "bfloat16")
SCALE_BYTES = 4


@dataclass(frozen=True, slots=True)
class PackedProblem:
    """out [m, n] = activation(a [m, k] @ weight[n, k].T + bias) + residual; half as many columns where it is gated.

    number_format: of the weight, one of formats.FORMATS; its groups divide k.
    """

    name: str
    m: int
    n: int
    k: int
    number_format: str = "int4"
    activation: str = "none"
    has_bias: bool = False
    has_residual: bool = False

    @property
    def terms(self) -> int:
        """Terms in the sum of one output."""
        return self.k

    @property
    def out_columns(self) -> int:
        """Columns of the output."""
        return self.n if self.activation == "none" else self.n // 2

    def can_be_copied(self, element_bytes: int) -> bool:
        """Whether the hardware can copy tiles, if rows follow each other without a gap."""
        rows = (self.k * element_bytes, self.n * SCALE_BYTES)
        return self.k > 0 and all(row % COPY_BYTES == 0 for row in rows)


def takes(problem: PackedProblem, dtype_name: str, capability: int | None) -> bool:
    """Whether the kernel takes the problem in a dtype on a GPU of `capability`; None is the interpreter."""
    return dtype_name in DTYPE_NAMES and (problem.number_format == "int4" or dtype_name == "bfloat16")


GATE_PROBLEMS = (
    PackedProblem("no_rows", 0, 16, 128),
    PackedProblem("no_terms", 5, 8, 0, has_bias=True),
    PackedProblem("one_row", 1, 130, 256),
    PackedProblem("one_chunk", 3, 68, 128),
    PackedProblem("one_tile", 3, 16, 1408),
    PackedProblem("many_tiles", 5, 520, 256),
    PackedProblem("many_rows", 70, 72, 384),
    PackedProblem("ends", 19, 70, 384, has_bias=True, has_residual=True),
    PackedProblem("swiglu", 37, 84, 512, activation="swiglu", has_bias=True, has_residual=True),
    PackedProblem("mxfp4", 3, 68, 416, "mxfp4"),
    PackedProblem("mxfp4_short", 5, 36, 96, "mxfp4"),
    PackedProblem("mxfp4_odd", 17, 63, 96, "mxfp4", has_bias=True),
    PackedProblem("mxfp4_swiglu", 33, 72, 736, "mxfp4", "swiglu_clamped", has_bias=True, has_residual=True),
)

GPU_GATE_PROBLEMS = (
    PackedProblem("wide", 16, 28_672, 512, activation="swiglu"),
    PackedProblem("long", 1, 4096, 14_336, has_residual=True),
    PackedProblem("prefill", 300, 1000, 4096),
    PackedProblem("mxfp4_long", 16, 2880, 2880, "mxfp4", has_bias=True),
    PackedProblem("mxfp4_prefill", 300, 1000, 4096, "mxfp4"),
)

_STREAMED, _ANY = (1, 16), (1, 16, 64, 1024)

BENCH_PROBLEMS = tuple(
    PackedProblem(
        f"{model}_{layer}_m{m}_{number_format}",
        m,
        *layers[layer],
        number_format,
        "swiglu" if layer == "gate_up" else "none",
        has_residual=layer in ("out", "down"),
    )
    for number_format, model, layers, names, rows in (
        ("int4", "llama3.1-8b", LLAMA_8B, tuple(LLAMA_8B), _STREAMED),
        ("int4", "llama3.1-70b", LLAMA_70B, ("gate_up", "down"), _ANY),
        ("mxfp4", "llama3.1-70b", LLAMA_70B, ("gate_up", "down"), _STREAMED),
    )
    for layer in names
    for m in rows
)
