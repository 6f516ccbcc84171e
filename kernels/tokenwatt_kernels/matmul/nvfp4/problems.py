"""Shapes of matmuls of NVFP4 numbers: small odd ones for the gate, the layers of real models for the bench."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwatt_kernels.matmul.problem import COPY_BYTES
from tokenwatt_kernels.matmul.shapes import LLAMA_70B

CAPABILITY = 100
"""The first GPUs whose tensor cores take such numbers; `device.check_nvfp4` refuses others."""
DTYPE_NAMES = ("bfloat16",)
"""Of the answer, by which the gate judges: operands are NVFP4."""
GROUP = 16


@dataclass(frozen=True, slots=True)
class Nvfp4Problem:
    """out [m, n] = activation(a [m, k] @ weight[n, k].T + bias) + residual; half as many columns where it is gated."""

    name: str
    m: int
    n: int
    k: int
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

    @property
    def can_be_copied(self) -> bool:
        """Whether the hardware can copy tiles, if rows of codes and of scales follow each other without a gap."""
        return self.k > 0 and self.k // GROUP % COPY_BYTES == 0


def takes(problem: Nvfp4Problem, dtype_name: str, capability: int | None) -> bool:
    """Whether the kernel takes the problem on a GPU of `capability`; None is the interpreter."""
    return dtype_name in DTYPE_NAMES and (capability is None or capability >= CAPABILITY)


GATE_PROBLEMS = (
    Nvfp4Problem("no_rows", 0, 16, 32),
    Nvfp4Problem("no_terms", 5, 8, 0, has_bias=True),
    Nvfp4Problem("one_row", 1, 130, 272),
    Nvfp4Problem("one_tile", 3, 16, 1408),
    Nvfp4Problem("many_rows", 70, 72, 256),
    Nvfp4Problem("ends", 19, 70, 400, has_bias=True, has_residual=True),
    Nvfp4Problem("swiglu", 37, 84, 512, "swiglu", has_bias=True, has_residual=True),
)

GPU_GATE_PROBLEMS = (
    Nvfp4Problem("wide", 16, 28_672, 512, "swiglu"),
    Nvfp4Problem("long", 1, 4096, 14_336, has_residual=True),
    Nvfp4Problem("prefill", 300, 1000, 4096),
)

BENCH_PROBLEMS = tuple(
    Nvfp4Problem(
        f"llama3.1-70b_{layer}_m{m}",
        m,
        *LLAMA_70B[layer],
        "swiglu" if layer == "gate_up" else "none",
        has_residual=layer == "down",
    )
    for layer in ("gate_up", "down")
    for m in (1, 64, 4096)
)
